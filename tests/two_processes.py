"""Two processes of a distributed training, without a launcher."""
import multiprocessing

from torch import distributed


def _work_of(rank, work, file, answers):
    distributed.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2)
    for answer in work(rank):
        answers.put((rank, answer))


def answers_of_two(work, folder, count):
    """What ``work(rank)`` yields in each of two processes, [of 0, of 1], ``count`` of each."""
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    processes = [context.Process(target=_work_of, args=(rank, work, folder / 'meet', queue))
                 for rank in range(2)]
    try:
        for process in processes:
            process.start()
        answers = [queue.get(timeout=60) for _ in range(2 * count)]
    finally:
        for process in processes:
            # A fork of a process with threads may wait for ever for a lock of one of them.
            process.kill()
            process.join()
    return [[answer for rank, answer in answers if rank == number] for number in range(2)]
