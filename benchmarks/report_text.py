"""The sentences of docs/performance.md that follow from the architectures, not from results."""

METHOD = """\
## How it was measured

- All contestants of a table took turns in every round, in one process but for those that name a
  runtime: each of these computed in a process of its own. Times are medians of the rounds.
  "Spread" is the fastest and the slowest round beside the median; a wide spread means that other
  programs used the machine meanwhile.
- A speed is the median of the ratios within the rounds, beside Container-Light. Ratios travel from
  one machine to another better than milliseconds do.
- Memory is the peak that PyTorch's allocator gave out, above what was held before the call. The
  buffers of oneDNN and MKL are not in it. In parentheses, of a process of its own: the peak of its
  resident memory above that after importing the runtime.
- "Of peak" compares the multiply-adds of a model with the fastest matrix product of 2048 x 2048 in
  the same run: two operations per multiply-add, and three forward passes for a training step.
- Weights are random; they change neither time nor memory.
- Backbones of this package run as `tools/test.py` and `tools/train.py` run them: deployed for
  inference, in the memory layout that they choose themselves. Others run as MMDetection runs them;
  in detectors, neck and head of all but the plain forms are deployed, as the tools do it.
- *Container-Light, onnxruntime* and *, OpenVINO* run the ONNX file that `tools/export_onnx.py`
  writes (for one size, of detectors without suppression); *, PyTorch* is the module that the file
  is written from.
- *Container-Light, plain* is the model in NCHW as one writes it in PyTorch. *CoTNet-50, unfold*
  copies every neighbourhood before it aggregates. They stand in for the official code.
- bfloat16 is autocast with weights in float32, which are converted in every call (in deployed
  backbones of this package in the first two of a size). "Gain" is the
  time in float32 over the time in bfloat16; the two types were measured one after the other, not in
  the same rounds. A gain below 1 is a loss: leave `--amp bf16` out there.
"""
FLOORS = """\
"Most" is the speed if all multiply-adds ran like the fastest matrix product of the run, and
normalisation, activation, the softmax of attention and depth-wise convolutions took no time at all.
The memory of deployed backbones has had their laid-out weights in it since code 83596f15fa, 80 MB
of a Container-Light in float32; the results of older code do not.

Where a floor is not reached:

- *Inference in float32 on one thread.* Most of the time goes into 1 x 1 convolutions with their
  GELU, which no code makes faster than "most". The plain form loses less on one thread than on two:
  the rest of its work is bound by memory, and one core alone has more of the memory's bandwidth.
  Tried: chunks of other sizes, aggregation in chunks, products of matrices in place of
  convolutions (faster for small maps only, and not faster than weights that stay laid out), weights
  laid out once, GELU and residual inside of the convolutions (of these the last two are kept).
- *With AVX2 alone.* Products of matrices are less than half as fast as with AVX-512, so that what
  is not a product weighs less, in the plain form as well. In detectors neck and head do most of the
  work, and are deployed for Swin-T and ResNet-50, too.
- *Inference in bfloat16 with AMX.* The floors lie within the spread: other programs used the
  machine. OpenVINO, whose kernels are the same, was 1.08 times as fast as the backbone on 2 threads
  beside eleven others, and as fast (0.99 times) beside two; 1.04 times on 1 thread.
- *Detectors in float32 on the Intel.* With the same code ResNet-50 took 1.35 times the time of
  Container-Light in one run, 1.03 in the next. In processes of their own ("PyTorch") RetinaNet
  was 1.2 and 1.3 times as fast as OpenVINO in float32; in bfloat16, in three runs, 1.06, 0.83 and
  0.77 times.
- *Training in float32.* Results of code before 1f33135 lack the gradient of wide depth-wise kernels
  in pieces (below). With it, on 2 threads of an Intel with AMX that other programs used at the
  same time, the ratio was 1.67 and 1.56 when two models took turns, 1.28 with eight of them in one
  process.
- *CoT's aggregation in stages 2 and 3.* It is 6 to 8 % of a CoTNet-50 on a CPU (AMD EPYC, AVX2, 1
  thread: 7.1 % of inference at 224 x 224, 5.6 % at 800 x 1333, 8.0 % of a training step at
  512 x 512): if it took no time at all, the model would be 1.09 times as fast. Every tap reads and
  writes the sums again, which a kernel in C++ or Triton keeps in registers. Tried: other slabs,
  other transpositions, compiled taps (about as fast, after minutes of compilation).
"""
LIMITS = """\
## What limits each model

- **Container-Light** computes most of its multiply-adds in 1 x 1 convolutions, which run at the
  speed of matrix products. The depth-wise 5 x 5 convolutions and the activations keep it from that
  speed, because they do little work per byte. In training, oneDNN has no gradient of their weights
  but for kernels of up to three columns: for wider ones it computes the products of 16 neighbouring
  channels with each other and throws nearly all of them away. In pieces of three columns and two it
  takes a fifth of that (64 channels, 128 x 128 positions, 2 images, float32: 6 ms in place of 35
  on 2 threads with AMX; 13 in place of 68 on one thread without AVX-512). At 224 x 224 what PyTorch
  does around each of the 112 convolutions counts, too: the 1 x 1 convolutions themselves took 106
  ms, and 103 ms in OpenVINO (AVX2, 1 thread). With AMX in bfloat16, on 1 thread as well, all of
  oneDNN took 47 ms of 70, and 40 ms in OpenVINO, which calls the same kernels without that.
  Attention works in stage 4 only, on one position per 32 x 32 pixels.
- **Container-Base** attends in every stage. The first stage has one position per 4 x 4 pixels, and
  its cost grows with the square of the number of pixels ([measured](container_family.md)).
  Training it in bfloat16 with PyTorch's fused attention was 1.3 times as fast as in float32: where
  positions are few, that takes up to ten times as long to train in bfloat16. There attention trains
  in float32 under autocast (`mmcontainer.ops.fused_attention`): 53 images of 64 x 64 pixels a
  second in place of 35, of H-DeiT-S 61 in place of 39 (AMX, one thread, another training beside).
- **CoTNet** moves memory: its local aggregation does nine multiply-adds per value, and weighs them
  with a map of weights that is larger than its input. It is linear in the number of pixels.
- **CoAtNet** convolves in stages 1 and 2 and attends in stages 3 and 4. The attention of stage 3,
  on one position per 16 x 16 pixels, grows with the square of the number of pixels and in the end
  outweighs the rest.
- **ResNet-50 and ConvNeXt-T** are convolutions throughout, linear in the number of pixels.
  **Swin-T** attends in windows: linear as well, but it copies maps to cut, shift and merge windows.
  **PVTv2-B2** attends from every position to a map pooled by a fixed factor: the square remains,
  divided by that factor.
"""
GROWTH = """\
The exponent is that of the number of pixels between the first and the last size: 1 is linear, 2
quadratic. Below 1, fixed costs of the small size remain."""
DATA = """\
Photographs of COCO's size, decoded, resized to 800 x 1333, flipped and packed as the 1x configs do
it. A GPU that trains N images per second needs N / {usual} workers, rounded up, and one more for
the longest images: MMDetection's two per GPU suffice up to about that many images per second.
`tools/gpu_check.sh` measures N; it has not been measured. OpenCV is MMDetection's default. mmcv
knows TurboJPEG only after `mmcv.use_backend('turbojpeg')` in the same process."""
REPEAT = """\
## Repeat it

```bash
export OMP_NUM_THREADS=2                     # cases of other thread counts are kept apart
R=benchmarks/results
python -m benchmarks.backbones --sizes 224 800x1333 --dtypes float32 bfloat16 \\
    --json $R/backbones.json
python -m benchmarks.backbones --sizes 320 448 640 --json $R/backbones.json
python -m benchmarks.backbones --sizes 224 800x1333 --batches 8 --json $R/backbones.json
python -m benchmarks.backbones --passes 'training step' --batches 2 --sizes 512 \\
    --dtypes float32 bfloat16 --json $R/backbones.json
python -m benchmarks.detectors --sizes 800x1333 --dtypes float32 bfloat16 --json $R/detectors.json
python -m benchmarks.ops --json $R/ops.json
python -m benchmarks.training_step mmcontainer::retinanet/container_light_fpn_1x_coco.py \\
    --data-root DATA --json $R/training_step.json
python -m benchmarks.data_pipeline --data-root DATA --json $R/data_pipeline.json
python -m benchmarks.report
```

A case replaces the same case (workload, hardware, threads, allocator) in its file and leaves the
others. `--models` and `--rounds` choose, `--help` says more. "Code" is the commit that was
measured.
"""
