"""Normalization: Online Normalization for any batch size, norms by name, another norm in any model, calibration.

    online        OnlineNorm1d, 2d, 3d and the function behind them. online_options are its hyper-parameters;
                  online_torch, online_cpp and online_triton compute, online_backends chooses among them;
                  online_function, online_compile and online_recompute stand towards autograd, torch.compile and
                  activation checkpointing; online_distributed averages the state over processes
    factory       norms by name: `create_norm`
    convert       another norm in any model: `convert_norms`; recognise, replace and inputs are its parts
    layers        norms that torch does not have
    calibration   running statistics for an image size

Nothing here imports more of the project than `registry`, so that the folder can be lifted into another trainer.
"""
