"""Training: from a recipe to a network.

In: a recipe and a cohort. Out: a run's folder with the trained weights. Start reading at
:func:`atlaslib.train` in `loop`; the other modules hold what it calls.
May import: evaluation, runs, synthetic, data, networks, profiles, recipes, models, files.
"""
