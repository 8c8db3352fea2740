#!/usr/bin/env python
"""Detect objects in pictures and videos; writes a picture or video and a JSON file for each."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_config_options, add_inference_options, make_parser, start

# mmcontainer.cli.images.MAX_PIXELS, which takes seconds to import; a test compares them.
MAX_PIXELS = 89_478_485


def parse_args():
    parser = make_parser(__doc__, [
        'photo.jpg clip.mp4 --config CONFIG --checkpoint CHECKPOINT',
        'photos/ --recursive --score-thr 0.5 --config CONFIG --checkpoint CHECKPOINT',
        'val2017/ --score-thr 0 --no-pictures --coco --annotations instances_val2017.json '
        '--config CONFIG --checkpoint CHECKPOINT'],
        note='JSON: image, height, width, and detections with label, class, score (0 to 1), bbox '
        '[x1, y1, x2, y2], and mask (COCO run-length code) if the model predicts masks; in pixels '
        'of the image as the test pipeline of the config decodes it, upright except for WebP. '
        'That of a video has video, height, width, fps, and frames with frame and detections. '
        'The exit code is 1 if an image could not be done; all others are.')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='images, videos or folders')
    parser.add_argument('--config', required=True, help='config of the checkpoint')
    parser.add_argument('--checkpoint', required=True, help='file that tools/train.py wrote')
    parser.add_argument('--out-dir', default='outputs', help='folder for the results (outputs)')
    parser.add_argument('--score-thr', type=float, default=0.3,
                        help='leave out detections with a lower score (0.3)')
    parser.add_argument('--device', help='cpu, cuda:0, ... (the first GPU if there is one)')
    parser.add_argument('--recursive', action='store_true', help='enter folders inside of folders')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='N',
                        help=f'refuse images with more pixels, unread ({MAX_PIXELS})')
    parser.add_argument('--no-pictures', action='store_true', help='draw nothing')
    parser.add_argument('--coco', action='store_true',
                        help='write one predictions.json of COCO results, no JSON for each image')
    parser.add_argument('--annotations', metavar='FILE',
                        help='COCO annotations that number images and categories for --coco')
    add_config_options(parser)
    add_inference_options(parser)
    return parser.parse_args()


def main(args):
    from mmcontainer.cli.infer import infer
    return infer(args)


if __name__ == '__main__':
    start(parse_args(), main)
