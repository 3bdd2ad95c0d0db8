/* Many messages through one instruction set. */

/* Streams: a stream per lane. Each takes the next message when its own ends, and gives its message
 * as runs of whole blocks: the first block, where a prefix shifts it, and the padded end are laid
 * out aside, all else is read where it lies. Works for any number of lanes and any lengths. */

struct stream {
    const uint8_t *at; /* where the run now given starts, */
    uint64_t blocks; /* and its blocks not yet hashed */
    struct message message;
    uint64_t done; /* bytes of the message given so far */
    int ended; /* the run now given is the last of its message */
    uint8_t aside[2 * BLOCK];
};

static uint64_t blocks_of(uint64_t size, enum prefix prefix)
{
    return (size + (prefix != PREFIX_NONE) + 8) / BLOCK + 1;
}

/* Give the next run of the message. */
static void stream_next(struct stream *s, enum prefix prefix)
{
    const uint64_t left = s->message.size - s->done;
    const size_t before = s->done == 0 && prefix != PREFIX_NONE;
    if (left + before >= BLOCK && !before) {
        s->at = s->message.data + s->done;
        s->blocks = left / BLOCK;
        s->done += s->blocks * BLOCK;
        return;
    }
    const size_t take = left + before >= BLOCK ? BLOCK - before : (size_t)left;
    memset(s->aside, 0, sizeof s->aside);
    s->aside[0] = (uint8_t)prefix;
    if (take)
        memcpy(s->aside + before, s->message.data + s->done, take);
    s->at = s->aside;
    s->blocks = 1;
    s->done += take;
    if (before + take == BLOCK)
        return;
    s->ended = 1;
    s->aside[before + take] = 0x80;
    s->blocks = before + take + 9 > BLOCK ? 2 : 1;
    write_be64(s->aside + s->blocks * BLOCK - 8, (s->message.size + (prefix != PREFIX_NONE)) * 8);
}

/* Hash what is left of the message, whose state so far is `state`, alone. */
static void stream_finish(
    struct stream *s, uint32_t state[8], const struct isa *single, enum prefix prefix)
{
    for (;;) {
        if (s->blocks)
            single->blocks(state, &s->at, s->blocks);
        s->blocks = 0;
        if (s->ended)
            break;
        stream_next(s, prefix);
    }
    for (int j = 0; j < 8; j++)
        write_be32(s->message.out + 4 * j, state[j]);
}

/* Hash `count` messages in the order given. `single` finishes the last few. */
static void hash_streams(
    const struct isa *isa, const struct isa *single, enum prefix prefix,
    const struct message *messages, size_t count)
{
    static const uint32_t start[8] = {SHA256_START};
    const unsigned lanes = isa->lanes;
    const unsigned fewest = single->fewest < lanes ? single->fewest : lanes;
    struct stream streams[MOST_LANES];
    uint32_t state[8 * MOST_LANES], alone[8];
    unsigned active[MOST_LANES]; /* the lanes that have a message */
    unsigned n = 0;
    size_t next = 0;
    for (unsigned i = 0; i < lanes && next < count; i++)
        active[n++] = i;
    for (unsigned i = 0; i < n; i++)
        streams[i].ended = 1, streams[i].blocks = 0, streams[i].message.out = NULL;
    for (;;) {
        /* Give each idle lane a run: of its message, or of the next. */
        uint64_t run = UINT64_MAX;
        for (unsigned a = 0; a < n; a++) {
            const unsigned i = active[a];
            struct stream *s = &streams[i];
            if (s->blocks == 0 && s->ended) {
                if (s->message.out)
                    for (int j = 0; j < 8; j++)
                        write_be32(s->message.out + 4 * j, state[(unsigned)j * lanes + i]);
                if (next == count) {
                    active[a--] = active[--n];
                    continue;
                }
                s->message = messages[next++];
                s->done = 0;
                s->ended = 0;
                for (int j = 0; j < 8; j++)
                    state[(unsigned)j * lanes + i] = start[j];
            }
            if (s->blocks == 0)
                stream_next(s, prefix);
            run = s->blocks < run ? s->blocks : run;
        }
        if (next == count && n < fewest)
            break;
        /* A lane without a message repeats the work of one that has. */
        const uint8_t *at[MOST_LANES];
        for (unsigned i = 0; i < lanes; i++)
            at[i] = streams[active[0]].at;
        for (unsigned a = 0; a < n; a++)
            at[active[a]] = streams[active[a]].at;
        isa->blocks(state, at, run);
        for (unsigned a = 0; a < n; a++) {
            streams[active[a]].at += run * BLOCK;
            streams[active[a]].blocks -= run;
        }
    }
    for (unsigned a = 0; a < n; a++) {
        for (unsigned j = 0; j < 8; j++)
            alone[j] = state[j * lanes + active[a]];
        stream_finish(&streams[active[a]], alone, single, prefix);
    }
}

/* Batches: messages with equal numbers of blocks are collected until there is one for each lane, so
 * that all lanes start and end together. What is left over, long, or so near an end of the data
 * that a whole block could not be read there, goes to the streams. */

/* Messages of fewer blocks than CLASSES are collected; of fewer than FEW, for several groups, since
 * the groups of one call overlap. */
enum { CLASSES = 72, FEW = 16, GROUPS = 4, REST = 512 };

struct batch {
    const struct isa *isa, *single;
    enum prefix prefix;
    const uint8_t *data;
    uint64_t size;
    size_t ahead; /* see struct work */
    size_t rest;
    uint8_t waiting[CLASSES];
    struct message few[FEW][GROUPS * MOST_LANES], classes[CLASSES][MOST_LANES];
    struct message others[REST];
};

static void batch_start(
    struct batch *b, const struct isa *isa, const struct isa *single, enum prefix prefix,
    const uint8_t *data, uint64_t size)
{
    b->isa = isa;
    b->single = single;
    b->prefix = prefix;
    b->data = data;
    b->size = size;
    b->ahead = 0;
    b->rest = 0;
    memset(b->waiting, 0, sizeof b->waiting);
}

static void batch_rest(struct batch *b, const struct message *message)
{
    b->others[b->rest++] = *message;
    if (b->rest == REST) {
        hash_streams(b->isa, b->single, b->prefix, b->others, b->rest);
        b->rest = 0;
    }
}

/* Hash the groups that have gathered in class `blocks`; leave what is less than a group. */
static void batch_groups(struct batch *b, uint64_t blocks)
{
    struct message *waiting = blocks < FEW ? b->few[blocks] : b->classes[blocks];
    const unsigned rest = b->waiting[blocks] % b->isa->lanes;
    const struct work work = {
        .prefix = b->prefix,
        .listed = waiting,
        .blocks = blocks,
        .count = b->waiting[blocks] - rest,
        .ahead = BLOCK,
    };
    if (work.count)
        b->isa->group(&work);
    memmove(waiting, waiting + work.count, rest * sizeof *waiting);
    b->waiting[blocks] = (uint8_t)rest;
}

/* Hash data[start:stop] to `out`, now or later. Requires start <= stop <= size of the data. */
static void batch_add(struct batch *b, uint64_t start, uint64_t stop, uint8_t *out)
{
    const struct message message = {b->data + start, stop - start, out};
    const uint64_t blocks = blocks_of(stop - start, b->prefix);
    const uint64_t before = b->prefix != PREFIX_NONE;
    if (!b->isa->group || blocks >= CLASSES || start < before ||
        start - before + blocks * BLOCK > b->size) {
        batch_rest(b, &message);
        return;
    }
    struct message *waiting = blocks < FEW ? b->few[blocks] : b->classes[blocks];
    waiting[b->waiting[blocks]++] = message;
    if (b->waiting[blocks] == (blocks < FEW ? GROUPS : 1) * b->isa->lanes)
        batch_groups(b, blocks);
}

/* Hash data[starts[i]:stops[i]] to row i of `out`, now or later; where `starts` is NULL, messages
 * of `stride` bytes end to end from `first` on. Return 0 if one of them is not 0 <= start <= stop
 * <= size of the data. None is read again after the check: they may change. */
static int batch_cuts(
    struct batch *b, const uint64_t *starts, const uint64_t *stops, uint64_t first,
    uint64_t stride, size_t n, uint8_t *out)
{
    struct work work = {
        .prefix = b->prefix,
        .data = b->data,
        .size = b->size,
        .stride = stride,
        .ahead = b->ahead,
    };
    for (size_t i = 0; i < n;) {
        size_t singly = n - i;
        if (b->isa->group && singly >= b->isa->lanes) {
            work.starts = starts ? starts + i : NULL;
            work.stops = starts ? stops + i : NULL;
            work.first = first + i * stride;
            work.out = out + i * DIGEST;
            work.count = singly;
            i += b->isa->group(&work);
            singly = n - i < b->isa->lanes ? n - i : b->isa->lanes;
        }
        for (; singly--; i++) {
            const uint64_t start =
                starts ? ((const volatile uint64_t *)starts)[i] : first + i * stride;
            const uint64_t stop = starts ? ((const volatile uint64_t *)stops)[i] : start + stride;
            if (start > stop || stop > b->size)
                return 0;
            batch_add(b, start, stop, out + i * DIGEST);
        }
    }
    return 1;
}

/* Hash all that was added. */
static void batch_end(struct batch *b)
{
    for (unsigned c = CLASSES; c-- > 0;) {
        if (b->waiting[c] == 0)
            continue;
        batch_groups(b, c);
        for (unsigned i = 0; i < b->waiting[c]; i++)
            batch_rest(b, c < FEW ? &b->few[c][i] : &b->classes[c][i]);
        b->waiting[c] = 0;
    }
    if (b->rest)
        hash_streams(b->isa, b->single, b->prefix, b->others, b->rest);
    b->rest = 0;
}
