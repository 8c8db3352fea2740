"""Pictures of a training run, of detections, and of affinities.

Import from its modules: some need MMDetection, and the affinities of a backbone do without.
"""
