"""Multiply and add."""


def fma(a, b, c):
    return a * b + c
