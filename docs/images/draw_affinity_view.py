"""Draw affinity_view.png: one row of the affinity matrix of each kind of context aggregation.

    python docs/images/draw_affinity_view.py

Computed from the explicit forms (mmcontainer.ops.explicit) for features of a smooth random map, not
sketched.
"""
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmcontainer.ops import attention_affinity, depthwise_affinity, local_affinity, resize_map

SIZE = 8
CHOSEN = (18, 45)  # positions whose rows are drawn beside the matrix


def compute():
    torch.manual_seed(2)
    features = resize_map(torch.randn(1, 8, 4, 4), (SIZE, SIZE)) * 1.3
    query, key = features[:, :4], features[:, 4:]
    kernel = torch.tensor([[0.05, 0.1, 0.05], [0.1, 0.4, 0.1], [0.05, 0.1, 0.05]]).view(1, 1, 3, 3)
    taps = (features.repeat(1, 2, 1, 1)[:, :9] * 0.8).softmax(1).view(1, 1, 9, SIZE, SIZE)
    return (
        ('self-attention\nfull, depends on the image', attention_affinity(query, key, 1)[0, 0]),
        ('depth-wise convolution\nlocal, the same everywhere', depthwise_affinity(
            kernel, SIZE, SIZE)[0]),
        ('CoT local aggregation\nlocal, depends on the image', local_affinity(taps)[0, 0]),
    )


def main():
    figure = Figure(figsize=(11, 5.8), dpi=110, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3, height_ratios=(2.1, 1))
    for column, (title, matrix) in enumerate(compute()):
        top, bottom = axes[:, column]
        scale = matrix[list(CHOSEN)].max()
        image = top.imshow(matrix, cmap='viridis', vmin=0, vmax=scale)
        figure.colorbar(image, ax=top, shrink=0.6, label='weight')
        top.set(title=title, xlabel=f'position j that is read (of {SIZE * SIZE})',
                ylabel='position i that collects')
        for row, colour in zip(CHOSEN, ('tab:red', 'tab:orange')):
            top.add_patch(Rectangle((-0.5, row - 0.5), SIZE**2, 1, fill=False, edgecolor=colour))
        rows = torch.cat([matrix[i].view(SIZE, SIZE) for i in CHOSEN], dim=1)
        bottom.imshow(rows, cmap='viridis', vmin=0, vmax=scale)
        for panel, (i, colour) in enumerate(zip(CHOSEN, ('tab:red', 'tab:orange'))):
            left = panel * SIZE - 0.5
            bottom.add_patch(Rectangle((left, -0.5), SIZE, SIZE, fill=False, edgecolor=colour,
                                       linewidth=2))
            bottom.plot(left + 0.5 + i % SIZE, i // SIZE, 'wo', markersize=4,
                        markeredgecolor='black')
        bottom.set(xticks=[], yticks=[], xlabel=f'rows {CHOSEN[0]} and {CHOSEN[1]} as maps; '
                   'dot: position i')
    figure.suptitle(f'Affinity matrices on a map of {SIZE} x {SIZE} positions')
    figure.savefig(Path(__file__).with_name('affinity_view.png'))


if __name__ == '__main__':
    main()
