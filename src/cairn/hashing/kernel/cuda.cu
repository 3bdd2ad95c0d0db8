/* SHA-256 of many messages, and the mining search, on a GPU: one thread hashes one message.
 *
 * Compiled by NVRTC when it is needed, with rounds.h and search.h beside it; `cairn.hashing.cuda`
 * lays out what these kernels read. Words of a slice are in the device's order of bytes (least
 * byte first); all positions count from the beginning of the slice, which is 16-byte aligned.
 */

#define word unsigned
#define SHA256_FN(name) message_##name
#define SHA256_INLINE static __device__ __forceinline__
#define SHA256_ROTR(x, n) __funnelshift_r(x, x, n)
#include "rounds.h"

#define word unsigned
#define LANES 1
#define FN(name) message_##name
#define INLINE static __device__ __forceinline__
#include "search.h"

/* Selects, for __byte_perm, the 4 bytes from the first on as a big-endian word. */
#define BIG_ENDIAN 0x0123u

/* Write SHA-256(prefix || the size bytes at start) to the 8 words at out.
 *
 * The prefix takes the place of the byte before the message, so hashed byte i stands at
 * start - 1 + i, and start is at least 1. Memory is read 16 bytes at a time, in the groups
 * that hold a byte of the message or the one before it, and no others. */
static __device__ __forceinline__ void hash_message(
    const uint4 *slice, unsigned start, unsigned size, unsigned prefix, uint4 *out)
{
    const unsigned skew = (start - 1) & 15, select = BIG_ENDIAN + 0x1111u * (skew & 3);
    const uint4 *next = slice + (start - 1) / 16, *end = slice + (start + size + 15) / 16;
    const int total = 1 + (int)size;
    unsigned state[8] = {SHA256_START};
    uint4 group = *next++;

    for (int left = total; left > -9; left -= 64) {
        unsigned bytes[20], w[16];
#pragma unroll
        for (int i = 0; i < 5; i++) {
            bytes[4 * i] = group.x;
            bytes[4 * i + 1] = group.y;
            bytes[4 * i + 2] = group.z;
            bytes[4 * i + 3] = group.w;
            if (i < 4 && next < end)
                group = *next++;
        }
        /* Shift by whole words, by twos and ones: an index known only when running would put the
         * array out of the registers. */
#pragma unroll
        for (int i = 0; i < 18; i++)
            bytes[i] = skew & 8 ? bytes[i + 2] : bytes[i];
#pragma unroll
        for (int i = 0; i < 17; i++)
            bytes[i] = skew & 4 ? bytes[i + 1] : bytes[i];
#pragma unroll
        for (int i = 0; i < 16; i++)
            w[i] = __byte_perm(bytes[i], bytes[i + 1], select);

        if (left == total)
            w[0] = (w[0] & 0x00ffffffu) | prefix << 24;
        if (left < 64) {
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const int keep = left - 4 * i;
                if (keep < 0)
                    w[i] = 0;
                else if (keep < 4)
                    w[i] = (w[i] & ~(0xffffffffu >> 8 * keep)) | 0x80000000u >> 8 * keep;
            }
            if (left < 56) {
                w[14] = (unsigned)total >> 29;
                w[15] = (unsigned)total << 3;
            }
        }
        message_compress(state, w);
    }

#pragma unroll
    for (int i = 0; i < 8; i++)
        state[i] = __byte_perm(state[i], 0, BIG_ENDIAN);
    out[0] = make_uint4(state[0], state[1], state[2], state[3]);
    out[1] = make_uint4(state[4], state[5], state[6], state[7]);
}

/* A slice of messages: the position of each, the size of each, the data. */
extern "C" __global__ void leaf_hashes(const uint4 *slice, unsigned count, uint4 *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned *starts = (const unsigned *)slice, *sizes = starts + count;
    if (i < count)
        hash_message(slice, starts[i], sizes[i], 0x00, out + 2 * i);
}

/* A slice of nodes: 16 bytes of anything, then the 64 bytes of children of each. */
extern "C" __global__ void node_hashes(const uint4 *slice, unsigned count, uint4 *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        hash_message(slice, 16 + 64 * i, 64, 0x01, out + 2 * i);
}

struct search_task {
    unsigned message[32];     /* both blocks, the nonce zero */
    unsigned target[8];       /* first word first */
    unsigned long long found; /* all ones to begin with; the lowest nonce that serves */
};

/* Try nonces first to last. Threads take groups of 256 in turn, the lowest first. */
extern "C" __global__ void search(
    struct search_task *task, unsigned long long first, unsigned long long last)
{
    unsigned state[8] = {SHA256_START}, second[16], target[8], w[16];
    for (int i = 0; i < 16; i++) {
        w[i] = task->message[i];
        second[i] = task->message[16 + i];
    }
    for (int i = 0; i < 8; i++)
        target[i] = task->target[i];
    message_compress(state, w);

    /* Counted in groups, which cannot overflow as nonces could. */
    const unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    unsigned long long at = (first >> 8) + blockIdx.x * blockDim.x + threadIdx.x;
    for (; at <= last >> 8; at += stride) {
        const unsigned long long base = at << 8;
        if (*(volatile unsigned long long *)&task->found < base)
            return;
        if (!message_search(state, second, base, target[0]))
            continue;
        for (unsigned i = 0; i < 256; i++) {
            const unsigned long long nonce = base | i;
            if (nonce >= first && nonce <= last && message_serves(state, second, nonce, target)) {
                atomicMin(&task->found, nonce);
                return;
            }
        }
    }
}
