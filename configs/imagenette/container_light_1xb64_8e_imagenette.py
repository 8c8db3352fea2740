# Container-Light of the size that the paper's tables have. Its last two stages have 4 x 4 and 2 x 2
# positions.
_base_ = '../_base_/imagenette_classifier.py'

model = dict(backbone=dict(type='ContainerLight', arch='light-paper'))
