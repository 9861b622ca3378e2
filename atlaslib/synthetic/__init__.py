"""Synthetic cohorts of people who do not exist, as NIfTI files in the folder layout of ATLAS R1.1.

In: a number of subjects and a seed. Out: a folder that `atlaslib.load_cohort` reads.
May import: data, networks, profiles, recipes, models, files.
"""
