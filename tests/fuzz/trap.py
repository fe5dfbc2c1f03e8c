"""A module that nothing imports but a payload: the canary looks for it among the modules."""

value = None
