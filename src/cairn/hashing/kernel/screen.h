/* The screen: which blocks of a segment break a rule, by the columns alone. It is
 * `cairn.core.validation`'s own column checks, done in chunks that stay in the cache. */

/* A segment's columns, as cairn.core.segment describes them, and what is asked of them. */
struct columns {
    uint64_t start; /* position of the first block */
    size_t n, m; /* blocks, entries */
    const uint8_t *headers, *hashes, *data;
    uint64_t size; /* bytes of data */
    const uint64_t *offsets;
    uint64_t most_count, most_size;
    int mined;
    uint8_t *flags;
};

/* Working space of a call. */
struct scratch {
    struct batch batch;
    int single; /* all blocks of the chunk have one entry, and firsts says so */
    size_t firsts[CHUNK + 1]; /* block i has the chunk's entries [firsts[i], firsts[i + 1]) */
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

/* Whether `blocks` blocks have one entry each. */
static int all_single(const uint8_t *headers, size_t blocks)
{
    uint32_t differ = 0;
    for (size_t i = 0; i < blocks; i++)
        differ |= read_be32(headers + i * HEADER + AT_COUNT) ^ 1;
    return !differ;
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
            batch_cuts(
                &s->batch, NULL, NULL, first * DIGEST, 2 * DIGEST, pairs, to + first * DIGEST);
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

/* Set each block's flag. Return 1; 0 if the segment is not regular; -1 without memory. Nothing that
 * safety hangs on is read twice: the buffers may change meanwhile. */
static int screen_into(
    struct scratch *s, const struct isa *isa, const struct isa *single, const struct columns *c)
{
    size_t entry = 0;
    if (c->offsets[0] != 0 || c->offsets[c->m] != c->size)
        return 0;
    for (size_t done = 0, blocks; done < c->n; done += blocks) {
        size_t entries = 0;
        int trees = 0;
        blocks = c->n - done < CHUNK ? c->n - done : CHUNK;
        if (blocks <= c->m - entry && all_single(c->headers + done * HEADER, blocks)) {
            entries = blocks;
            for (size_t i = 0; !s->single && i <= CHUNK; i++)
                s->firsts[i] = i;
            s->single = 1;
        } else {
            /* Take whole blocks while their entries fit, but one at least. */
            s->single = 0;
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
        }
        if (!scratch_grow(s, entries > CHUNK ? entries : CHUNK))
            return -1;

        const uint64_t *offsets = c->offsets + entry;
        batch_start(&s->batch, isa, single, PREFIX_LEAF, c->data, c->size);
        if (!batch_cuts(&s->batch, offsets, offsets + 1, 0, 0, entries, s->leaves))
            return 0;
        batch_end(&s->batch);
        if (trees)
            tree_roots(isa, single, s, blocks);

        batch_start(&s->batch, isa, single, PREFIX_LEAF, c->headers, c->n * HEADER);
        s->batch.ahead = CHUNK * HEADER;
        batch_cuts(&s->batch, NULL, NULL, done * HEADER, HEADER, blocks, s->hashes);
        batch_end(&s->batch);

        const struct judged judged = {
            .blocks = blocks,
            .position = c->start + done,
            .header = c->headers + done * HEADER,
            .hash = c->hashes + done * DIGEST,
            .offsets = offsets,
            .firsts = s->firsts,
            .leaves = s->leaves,
            .hashes = s->hashes,
            .single = s->single,
            .follows = done > 0,
            .most_count = c->most_count,
            .most_size = c->most_size,
            .mined = c->mined,
            .flags = c->flags + done,
        };
        isa->judge(&judged);
        entry += entries;
    }
    return entry == c->m;
}

static int screen(const struct isa *isa, const struct isa *single, const struct columns *c)
{
    struct scratch scratch;
    scratch.single = 0;
    scratch.rows = 0;
    scratch.leaves = NULL;
    const int result = screen_into(&scratch, isa, single, c);
    free(scratch.leaves);
    return result;
}
