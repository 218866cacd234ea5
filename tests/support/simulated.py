"""A CUDA device that is not there, for a process that begins with ``simulated.install()``.

Its tensors are CPU tensors in a wrapper whose device is called ``cuda:0``. As on a real one, tensors of two devices do
not meet (a CPU tensor without dimensions may, where an operator is pointwise), ``.numpy()`` is refused, a generator
belongs to one device, random numbers have a state of their own, autocast goes by CUDA's list of operators, autograd
runs in the device's thread, a module that moves keeps its parameters, and optimizers take their foreach form. What
makes a host wait for its device is counted by kind and line.

It does not show what CUDA's kernels compute or lack, fused attention, streams, memory or speed, several devices,
``torch.compile``, or worker processes. What fails here fails on a device; what passes here need not pass there.

It takes the slot that torch keeps for devices of others, with a backend in Python, which needs torch's private
functions (written for torch 2.14), and lasts as long as the process.
"""

from simulated_install import install
from simulated_tensor import DeviceTensor
from simulated_waits import waits

__all__ = ["DeviceTensor", "install", "waits"]
