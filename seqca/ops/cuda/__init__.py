"""Backend `cuda`: CUDA C++ from `csrc/`, in the extension `seqca._C`. One module per operator."""
