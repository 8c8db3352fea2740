# What this package adds to any MMDetection config.
custom_imports = dict(imports=['mmcontainer'], allow_failed_imports=False)
custom_hooks = [
    # Saves and restores the random state: a resumed run continues as if never interrupted.
    dict(type='RNGStateHook'),
    # Validation and tests run on a copy of the backbone that is made for inference.
    dict(type='DeployHook')
]
