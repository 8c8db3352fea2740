"""What programs call: ``mmcontainer.Detector`` and ``mmcontainer.create_model``."""
