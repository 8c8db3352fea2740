# Named parts for the leaf configs: images as DETR, Deformable DETR and SMCA-DETR read them, which
# share datasets/coco.py and datasets/transforms.py of github.com/facebookresearch/detr. Pillow
# decodes, and resizes with antialiasing; no image is left out, also none without an object; batches
# are drawn from all images, of any aspect ratio, and the last one of an epoch is left out if it is
# not full.
detr_load = dict(type='LoadImageFromFile', backend_args=None, imdecode_backend='pillow')
detr_resize = dict(
    type='RandomChoiceResize',
    scales=[(side, 1333) for side in range(480, 801, 32)],
    keep_ratio=True,
    backend='pillow')
detr_train_pipeline = [
    detr_load,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    # Half of the images are cropped before they are resized.
    dict(
        type='RandomChoice',
        transforms=[
            [detr_resize],
            [
                # Without a limit of the long side: no image is seven times as long as it is wide.
                dict(
                    type='RandomChoiceResize',
                    scales=[(side, 4200) for side in (400, 500, 600)],
                    keep_ratio=True,
                    backend='pillow'),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    allow_negative_crop=True), detr_resize
            ]
        ]),
    dict(type='PackDetInputs')
]
detr_test_pipeline = [
    detr_load,
    dict(type='Resize', scale=(1333, 800), keep_ratio=True, backend='pillow'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
detr_train_dataloader = dict(
    drop_last=True,
    batch_sampler=None,
    dataset=dict(
        filter_cfg=dict(filter_empty_gt=False, min_size=0), pipeline=detr_train_pipeline))
detr_test_dataloader = dict(dataset=dict(pipeline=detr_test_pipeline))
