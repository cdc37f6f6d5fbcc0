"""What `mer report` writes: one HTML file about finished runs, for whoever has to judge their numbers.

`write` composes it. Below it `evidence` reads the runs, `headline`, `classes`, `behaviour`, `studies`, `examples` and
`provenance` make its sections. `look` asks the models once more what they draw, `figures/` has a room for each
architecture; `plot` and `drawings` draw, `tables`, `page` and `embedded` write HTML, CSV and LaTeX.
"""
