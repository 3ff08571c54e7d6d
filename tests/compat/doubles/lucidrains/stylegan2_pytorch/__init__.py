from stylegan2_pytorch.stylegan2_pytorch import Conv2DMod, GeneratorBlock  # noqa: F401
