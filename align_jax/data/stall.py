class DataStalledError(RuntimeError):
    pass
