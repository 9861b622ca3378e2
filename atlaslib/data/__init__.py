"""From a folder of NIfTI files to normalised slices and a model's input, and back to volumes.

In: archives and files of ATLAS or of the synthetic cohort, and their metadata tables. Out: a
`Cohort` of scans, the faults of a folder, slices as tensors, slices reassembled into a volume.
May import: networks, profiles, recipes, models, files.
"""
