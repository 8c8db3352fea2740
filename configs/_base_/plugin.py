# What this package adds to any MMDetection config.
custom_imports = dict(imports=['mmcontainer'], allow_failed_imports=False)
# Saves and restores the random state, so that a resumed run continues as if never interrupted.
custom_hooks = [dict(type='RNGStateHook')]
