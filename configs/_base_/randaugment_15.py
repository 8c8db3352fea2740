# The 16 operations of the RandAugment of TensorFlow's EfficientNet at magnitude 15, for images of
# 224 x 224. A range holds what magnitudes 0 and 15 make of it: the original divides by 10, and so
# turns by 15 / 10 * 30 = 45 degrees.
randaugment_policies = [
    dict(type='AutoContrast'),
    dict(type='Equalize'),
    dict(type='Invert'),
    dict(type='Rotate', magnitude_range=(0, 45)),
    # Bits that are kept. The original rounds down and MMPretrain up, hence one less; the remainder
    # keeps 6 bits at magnitude 15 itself.
    dict(type='Posterize', magnitude_range=(-0.9999, 5.0001)),
    # A threshold above 255: from magnitude 10 on, this changes nothing.
    dict(type='Solarize', magnitude_range=(0, 384)),
    dict(type='SolarizeAdd', magnitude_range=(0, 165)),
    # One is added: factors from 0.1 to 2.8, of which only the strong ones are drawn.
    dict(type='ColorTransform', magnitude_range=(-0.9, 1.8), random_negative_prob=0.),
    dict(type='Contrast', magnitude_range=(-0.9, 1.8), random_negative_prob=0.),
    dict(type='Brightness', magnitude_range=(-0.9, 1.8), random_negative_prob=0.),
    dict(type='Sharpness', magnitude_range=(-0.9, 1.8), random_negative_prob=0.),
    dict(type='Shear', magnitude_range=(0, 0.45), direction='horizontal'),
    dict(type='Shear', magnitude_range=(0, 0.45), direction='vertical'),
    # 150 pixels
    dict(type='Translate', magnitude_range=(0, 150 / 224), direction='horizontal'),
    dict(type='Translate', magnitude_range=(0, 150 / 224), direction='vertical'),
    # Twice 60 pixels, and the one in the middle.
    dict(type='Cutout', magnitude_range=(1, 121))
]
