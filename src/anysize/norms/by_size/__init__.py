"""A norm for each image size: `norm_by_size`.

    norm_by_size(model, (16, 24, 32, 48))       # or --model.norm-by-size true in a recipe
    train(model)                                # images of any of these sizes, each batch of one
    evaluate(model)                             # at any size; nothing has to be told

The statistics of activations differ with the size of the images, so that one set of running statistics fits none of
the sizes that a network is trained at (Wang et al., Resolution Switchable Networks, arXiv 2007.09558, section 3.1).
Here each norm of a model becomes one for each training size, with the same weight and bias or, by option, its own.
The convolutions and the FLOPs stay.

A hook of the model notes the size of the images that it is called with: the square root of height times width, in
pixels. In training the norm of the nearest size is used and moved. In evaluation a training size takes its own norm; a
size between two of them takes the mean of theirs, linear in the logarithm of the size; one beyond takes the nearest.
"""
