"""The verbs of `mer` by group: one file per group, options that several share in `options.py`."""
