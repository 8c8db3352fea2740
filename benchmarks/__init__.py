"""Side-by-side measurements of time and memory; run from the root of a checkout, never installed.

    python -m benchmarks.backbones         backbones beside what users would pick instead
    python -m benchmarks.detectors         the same inside one RetinaNet
    python -m benchmarks.ops               operators in their fast and explicit forms
    python -m benchmarks.training_step     where the time of tools/train.py goes
    python -m benchmarks.data_pipeline     images per second of a loader's worker, by decoder
    python -m benchmarks.overfit_detr      DETR, Deformable DETR and SMCA-DETR on four photographs
    python -m benchmarks.trained_exports   AP of small detectors in PyTorch, onnxruntime and int8
    python -m benchmarks.learning          docs/results.md and its pictures, from the ledger
    python -m benchmarks.report            docs/performance.md and its pictures, from the results
"""
