"""Apply networks to scans, score the masks that they predict, and describe lesions.

In: runs or networks, and scans. Out: logits, masks in the scan's own geometry, tables with one
row per scan, bootstrap intervals; networks to publish, with their cards.
May import: runs, synthetic, data, networks, profiles, recipes, models, files.
"""
