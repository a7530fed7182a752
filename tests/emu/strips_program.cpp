// The program of the depthwise strips, which lies beside the folder of the kernels.
#include "../../csrc/strips/program.cpp"
