"""With the names of today's arguments."""


def make_grid(tensor, nrow=8, padding=2, normalize=False, value_range=None):
    return "grid", nrow, value_range


def save_image(tensor, fp, format=None, **kwargs):
    return fp, make_grid(tensor, **kwargs)
