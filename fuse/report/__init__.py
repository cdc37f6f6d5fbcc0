"""What `mer report` writes: one HTML file about finished runs, for whoever has to judge their numbers.

`write` composes it. Below it `evidence` reads the runs, `headline`, `classes`, `behaviour`, `studies` and `provenance`
make its sections, `figures` draws, `tables` and `page` write HTML, CSV and LaTeX.
"""
