"""The claims of the 2018 report, and the experiments that test them.

In: a cohort and a profile. Out: tables in a folder for each profile, such as
``data/results/quick``, and verdicts on claims.
May import: training, evaluation, runs, synthetic, data, networks, profiles, recipes, models, files.
"""
