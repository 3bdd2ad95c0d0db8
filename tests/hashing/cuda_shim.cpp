/* The CUDA source as a C++ compiler takes it, and its kernels run thread after thread. */

#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct dim3 {
    unsigned x;
};
static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return uint4{x, y, z, w};
}

/* Hexadecimal digit n of `select` names, of the 8 bytes of y:x, the one that becomes byte n. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned select)
{
    const unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int n = 0; n < 4; n++)
        result |= (unsigned)(bytes >> 8 * (select >> 4 * n & 7) & 0xff) << 8 * n;
    return result;
}

/* The lower word of hi:lo shifted right by n mod 32. */
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n)
{
    return (unsigned)(((unsigned long long)hi << 32 | lo) >> (n & 31));
}

static inline void atomicMin(unsigned long long *at, unsigned long long value)
{
    if (value < *at)
        *at = value;
}

#include "cuda.cu"

template <typename... Arguments>
static void run(void (*kernel)(Arguments...), unsigned grid, unsigned block, Arguments... arguments)
{
    gridDim.x = grid;
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++)
            kernel(arguments...);
}

extern "C" void run_leaf_hashes(unsigned grid, unsigned block, uint4 *in, unsigned count, uint4 *out)
{
    run<const uint4 *, unsigned, uint4 *>(leaf_hashes, grid, block, in, count, out);
}

extern "C" void run_node_hashes(unsigned grid, unsigned block, uint4 *in, unsigned count, uint4 *out)
{
    run<const uint4 *, unsigned, uint4 *>(node_hashes, grid, block, in, count, out);
}

extern "C" void run_search(
    unsigned grid,
    unsigned block,
    search_task *task,
    unsigned long long first,
    unsigned long long last)
{
    run<search_task *, unsigned long long, unsigned long long>(
        search, grid, block, task, first, last);
}
