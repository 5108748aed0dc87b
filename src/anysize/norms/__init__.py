"""Normalization: Online Normalization for any batch size, norms by name, another norm in any model, calibration.

    online/       Online Normalization: OnlineNorm1d, 2d, 3d, and the function behind them; backends/ compute it
    factory       norms by name: `create_norm`
    convert/      another norm in any model: `convert_norms`
    layers        norms that torch does not have
    by_size/      a norm for each image size: `norm_by_size`
    synchronised  batch norm over the batches of all processes
    running       which norms keep running statistics, and where
    pooling       the same, pooled over the processes
    calibration   running statistics for an image size
    strength      statistics between those of training and those of a calibration
    choice        how much of a calibration a network takes, by scores of held-out images

Nothing here imports more of the project than `registry` and `world`, so that the folder can be lifted into another
trainer.
"""
