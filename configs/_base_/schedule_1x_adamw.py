# The 1x recipe of the Container paper (arXiv 2106.01401, appendix A.2 and A.3): 12 epochs, AdamW,
# learning rate / 10 after epochs 8 and 11, 500 iterations of warm-up, no gradient clipping.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

# Weight decay applies to every parameter, norms and biases included: the paper names no exception.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05))

# The learning rate belongs to 8 GPUs x 2 images = 16 images an iteration.
auto_scale_lr = dict(enable=False, base_batch_size=16)
