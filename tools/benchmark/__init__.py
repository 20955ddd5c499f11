"""Time this package beside stock Detectron2 and a user's other choices, on the machine at hand.

contest      calls timed in turn, each in a process with its users' memory settings; a result's rows
precisions   the precisions of a device, and how fast it multiplies matrices in them
networks     Faster R-CNN R-50 FPN with the same weights in three packages, and its input
differences  how far the outputs of two models are apart
detectors    tasks: that network's inference, its dense parts by OpenVINO, and a training step
operators    tasks: RoIAlign; the matching of anchors; mask proposals against an image pyramid
paper_rows   task: every row of the paper's Tables 1 to 3
growth       task: how seconds and memory grow with images, objects, classes, proposals, processes
growth_point a point of that task, in processes of its own
free_memory  how much memory these processes can take
agreement    task: the detections of a trained model, prepared and as Detectron2 runs it
profiling    the operators that take a detector's time
program      what tools/benchmark.py runs: the tasks one after another, and the file of their rows

A task is a generator of comparisons (:class:`benchmark.contest.Comparison`). Its ``device`` is
"cpu" or "cuda", and a ``size`` the height and the width of an image in pixels.
"""
