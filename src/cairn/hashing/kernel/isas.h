/* The instruction sets, each with what it makes of lanes.h, sha.h or the plain rounds. */

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* The end of a message: of a block of which the last k bytes (0 to 72, so that of the last 8 some
 * were in the block before) are past it, the 64 bytes from `keep + k` mask what is kept, and those
 * from `pad + k` are what follows. */
static const struct {
    uint8_t keep[3 * BLOCK], pad[3 * BLOCK];
} ending = {
    .keep = {[0 ... BLOCK - 1] = 0xff},
    .pad = {[BLOCK] = 0x80},
};

/* GCC has __builtin_shufflevector from 12 on: an older one builds no lanes, but all else. */
#if defined(__clang__) || __GNUC__ >= 12
#define VECTORS 1
#else
#define VECTORS 0
#endif

#if defined(__x86_64__)

#if VECTORS
#define LANES 16
#define FN(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,bmi2")))
#define TERNARY(x, y, z, table) \
    (word_avx512) _mm512_ternarylogic_epi32((__m512i)(x), (__m512i)(y), (__m512i)(z), table)
#define SHA256_XOR3(x, y, z) TERNARY(x, y, z, 0x96)
#define SHA256_CH(x, y, z) TERNARY(x, y, z, 0xca)
#define SHA256_MAJ(x, y, z) TERNARY(x, y, z, 0xe8)
#define KEEP(x, mask, other) TERNARY(x, mask, other, 0xea)
#define BSWAP(x) \
    (word_avx512) _mm512_shuffle_epi8( \
        (__m512i)(x), \
        _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203)))
#include "lanes.h"

#define LANES 8
#define FN(name) name##_avx2
#define TARGET __attribute__((target("avx2,bmi2")))
#define KEEP(x, mask, other) (((x) & (mask)) | (other))
#define BSWAP(x) \
    (word_avx2) _mm256_shuffle_epi8( \
        (__m256i)(x), \
        _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203)))
#include "lanes.h"
#endif

#include "sha.h"

static int has_sha(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3") &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

#if VECTORS
static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("bmi2");
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
}
#endif

#elif defined(__aarch64__) && VECTORS

#define LANES 4
#define FN(name) name##_neon
#define TARGET
#define KEEP(x, mask, other) (((x) & (mask)) | (other))
#define BSWAP(x) \
    (word_neon) __builtin_shufflevector( \
        (bytes_neon)(x), (bytes_neon)(x), 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12)
typedef uint8_t bytes_neon __attribute__((vector_size(16)));
#include "lanes.h"

#endif

static void blocks_scalar(uint32_t *state, const uint8_t *const *at, size_t count)
{
    uint32_t w[16];
    for (const uint8_t *block = at[0]; count--; block += BLOCK) {
        for (int j = 0; j < 16; j++)
            w[j] = read_be32(block + 4 * j);
        compress_one(state, w);
    }
}

static void times_scalar(uint32_t *state, uint64_t times)
{
    uint32_t w[16];
    for (int j = 0; j < 16; j++)
        w[j] = state[j & 7];
    while (times--)
        compress_one(state, w);
}

static void judge_plain(const struct judged *judged)
{
    judge(judged);
}

static int always(void)
{
    return 1;
}

static const struct {
    struct isa isa;
    int (*supported)(void);
} ISAS[] = {
#if defined(__x86_64__)
#if VECTORS
    {{"avx512", 16, 0, blocks_avx512, group_avx512, judge_avx512, times_avx512,
      search_avx512}, has_avx512},
#endif
    {{"sha", 2, 0, blocks_sha_2, NULL, judge_plain, times_sha, NULL}, has_sha},
#if VECTORS
    {{"avx2", 8, 0, blocks_avx2, group_avx2, judge_avx2, times_avx2, search_avx2}, has_avx2},
#endif
#elif defined(__aarch64__) && VECTORS
    {{"neon", 4, 0, blocks_neon, group_neon, judge_neon, times_neon, search_neon}, always},
#endif
    {{"scalar", 1, 2, blocks_scalar, NULL, judge_plain, times_scalar, search_one}, always},
};

enum { ISA_COUNT = sizeof ISAS / sizeof ISAS[0] };

#if defined(__x86_64__)
static const struct isa SINGLE_SHA = {"sha", 1, 7, blocks_sha_1, NULL, NULL, NULL, NULL};
#endif
