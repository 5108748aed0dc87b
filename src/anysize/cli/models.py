"""`anysize models [PATTERN]`."""


def command(pattern: str = "", /) -> None:
    """List the models.

    Parameters
    ----------
    pattern
        only names that contain this
    """
    from anysize.models.factory import describe_model, list_models

    names = [name for name in list_models() if pattern.lower() in name]
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{name:{width}}  {describe_model(name)}")
