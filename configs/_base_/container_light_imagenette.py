# Named parts, as in container_light.py, of the paper's size and with the weights of
# imagenette/container_light_1xb64_8e_imagenette.py.
_base_ = './container_light.py'

backbone = dict(
    arch='light-paper', init_cfg=dict(checkpoint='checkpoints/container_light_imagenette.pth'))
