"""Data sets made by this package (see :mod:`mmcontainer.datasets.shapes`)."""
