/* The screen: which blocks of a segment break a rule, by the columns alone. It is
 * `cairn.core.validation`'s own column checks, done in chunks that stay in the cache. */

enum { HEADER = 104, CHUNK = 1024 };

/* Where the fields lie in a header; see cairn.core.header. */
enum {
    AT_INDEX = 8,
    AT_PREVIOUS = 16,
    AT_TIMESTAMP = 48,
    AT_COUNT = 56,
    AT_SIZE = 60,
    AT_ROOT = 64,
    AT_NONCE = 96,
};

enum { VALUE = 0, BATCH = 1, RECORD = 2 };

/* A segment's columns, as cairn.core.segment describes them, and what is asked of them. */
struct columns {
    uint64_t start; /* position of the first block */
    size_t n, m; /* blocks, entries */
    const uint8_t *headers, *hashes, *data;
    uint64_t size; /* bytes of data */
    const uint64_t *offsets;
    uint64_t most_count, most_size;
    uint8_t *flags;
};

/* SHA-256 of nothing: the root of a tree without leaves. */
static const uint8_t EMPTY_ROOT[DIGEST] = {
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
};

/* Working space of a call. */
struct scratch {
    struct batch batch;
    size_t firsts[CHUNK + 1]; /* the entries of block i are [firsts[i], firsts[i + 1]) of the chunk */
    uint64_t starts[CHUNK], stops[CHUNK];
    uint8_t hashes[CHUNK * DIGEST]; /* of the headers */
    size_t rows; /* for this many hashes of 32 bytes there is room at */
    uint8_t *leaves, *nodes;
};

static int scratch_grow(struct scratch *s, size_t rows)
{
    if (rows <= s->rows)
        return 1;
    free(s->leaves);
    s->rows = 0;
    s->leaves = rows <= SIZE_MAX / (2 * DIGEST) ? malloc(rows * 2 * DIGEST) : NULL;
    if (!s->leaves)
        return 0;
    s->nodes = s->leaves + rows * DIGEST;
    s->rows = rows;
    return 1;
}

/* Set starts and stops to the first n of messages of `size` bytes, one every `step` bytes. */
static void lay_out(struct scratch *s, size_t n, uint64_t first, uint64_t step, uint64_t size)
{
    for (size_t i = 0; i < n; i++) {
        s->starts[i] = first + i * step;
        s->stops[i] = first + i * step + size;
    }
}

/* Replace the leaves of each of `blocks` trees by its root, in the place of the first. All trees go
 * up level by level together, so that small ones fill the lanes too; an odd node is carried up as
 * it is (RFC 9162 section 2.1.1). */
static void tree_roots(
    const struct isa *isa, const struct isa *single, struct scratch *s, size_t blocks)
{
    uint8_t *from = s->leaves, *to = s->nodes;
    int more = 1;
    for (unsigned level = 0; more; level++) {
        more = 0;
        batch_start(&s->batch, isa, single, PREFIX_NODE, from, s->rows * DIGEST);
        for (size_t i = 0; i < blocks; i++) {
            const size_t first = s->firsts[i], leaves = s->firsts[i + 1] - first;
            if (leaves < 2)
                continue;
            const size_t width = ((leaves - 1) >> level) + 1, pairs = width / 2;
            for (size_t pair = 0; pair < pairs; pair++) {
                const uint64_t at = (first + 2 * pair) * DIGEST;
                batch_add(&s->batch, at, at + 2 * DIGEST, to + (first + pair) * DIGEST);
            }
            if (width % 2) {
                const uint8_t *odd = from + (first + width - 1) * DIGEST;
                memcpy(to + (first + pairs) * DIGEST, odd, DIGEST);
            }
            more |= width > 2;
        }
        batch_end(&s->batch);
        uint8_t *swap = from;
        from = to;
        to = swap;
    }
    for (size_t i = 0; from != s->leaves && i < blocks; i++)
        if (s->firsts[i + 1] - s->firsts[i] > 1)
            memcpy(s->leaves + s->firsts[i] * DIGEST, from + s->firsts[i] * DIGEST, DIGEST);
}

/* Return nonzero bits where 32 bytes differ. */
ALWAYS_INLINE uint64_t differ(const uint8_t *a, const uint8_t *b)
{
    uint64_t x[4], y[4];
    memcpy(x, a, DIGEST);
    memcpy(y, b, DIGEST);
    return (x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]);
}

/* Set the flags of blocks [done, done + blocks), whose entries begin at entry. */
static void judge(
    const struct columns *c, const struct scratch *s, size_t done, size_t blocks, size_t entry)
{
    /* Copied, since the compiler must fear that flags lie in it. */
    const uint64_t most_count = c->most_count, most_size = c->most_size;
    const uint64_t *const offsets = c->offsets + entry;
    const uint8_t *h = c->headers + done * HEADER, *stored_hash = c->hashes + done * DIGEST;
    const uint8_t *const leaves = s->leaves;
    uint8_t *const flags = c->flags + done;
    uint64_t position = c->start + done;
    /* The first block of the segment follows nothing that is known here. */
    uint64_t before = done ? read_be64(h - HEADER + AT_TIMESTAMP) : 0;
    const uint8_t *link = done ? stored_hash - DIGEST : h + AT_PREVIOUS;
    for (size_t i = 0; i < blocks; i++) {
        const size_t first = s->firsts[i], last = s->firsts[i + 1];
        const uint64_t count = last - first, stored = offsets[last] - offsets[first];
        const uint64_t timestamp = read_be64(h + AT_TIMESTAMP);
        /* What must be equal, compared in one; `kind` of version 1 and without bits. */
        const uint64_t kind = read_be64(h) ^ (uint64_t)1 << 48;
        uint64_t bad = read_be64(h + AT_INDEX) ^ position;
        bad |= differ(h + AT_PREVIOUS, link);
        bad |= read_be64(h + AT_COUNT) ^ (count << 32 | (stored & 0xffffffffu));
        bad |= stored >> 32;
        bad |= differ(h + AT_ROOT, count ? leaves + first * DIGEST : EMPTY_ROOT);
        bad |= read_be64(h + AT_NONCE);
        bad |= differ(stored_hash, s->hashes + i * DIGEST);
        int flag = bad != 0;
        flag |= kind != (uint64_t)BATCH << 32 && (count != 1 || (kind != (uint64_t)VALUE << 32 && kind != (uint64_t)RECORD << 32));
        flag |= timestamp >> 63 || timestamp < before;
        flag |= count > most_count || stored > most_size;
        flags[i] = (uint8_t)flag;
        before = timestamp;
        position++;
        link = stored_hash;
        h += HEADER;
        stored_hash += DIGEST;
    }
}

/* Set each block's flag. Return 1; 0 if the segment is not regular; -1 without memory. Nothing that
 * safety hangs on is read twice: the buffers may change meanwhile. */
static int screen_into(
    struct scratch *s, const struct isa *isa, const struct isa *single, const struct columns *c)
{
    size_t entry = 0;
    if (c->offsets[0] != 0 || c->offsets[c->m] != c->size)
        return 0;
    for (size_t done = 0, blocks; done < c->n; done += blocks) {
        /* Take whole blocks while their entries fit, but one at least. */
        size_t entries = 0;
        int trees = 0;
        s->firsts[0] = 0;
        for (blocks = 0; blocks < CHUNK && done + blocks < c->n; blocks++) {
            const size_t count = read_be32(c->headers + (done + blocks) * HEADER + AT_COUNT);
            if (count > c->m - entry - entries)
                return 0;
            if (blocks && entries + count > CHUNK)
                break;
            trees |= count > 1;
            entries += count;
            s->firsts[blocks + 1] = entries;
        }
        if (!scratch_grow(s, entries > CHUNK ? entries : CHUNK))
            return -1;

        const uint64_t *offsets = c->offsets + entry;
        batch_start(&s->batch, isa, single, PREFIX_LEAF, c->data, c->size);
        if (!batch_cuts(&s->batch, offsets, offsets + 1, entries, s->leaves))
            return 0;
        batch_end(&s->batch);
        if (trees)
            tree_roots(isa, single, s, blocks);

        lay_out(s, blocks, done * HEADER, HEADER, HEADER);
        batch_start(&s->batch, isa, single, PREFIX_LEAF, c->headers, c->n * HEADER);
        batch_cuts(&s->batch, s->starts, s->stops, blocks, s->hashes);
        batch_end(&s->batch);

        judge(c, s, done, blocks, entry);
        entry += entries;
    }
    return entry == c->m;
}

static int screen(const struct isa *isa, const struct isa *single, const struct columns *c)
{
    struct scratch scratch;
    scratch.rows = 0;
    scratch.leaves = NULL;
    const int result = screen_into(&scratch, isa, single, c);
    free(scratch.leaves);
    return result;
}
