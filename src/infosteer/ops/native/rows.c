/* Edit and entropy gradient of rows on a CPU, each in one pass over memory; see build.py for how it comes to be used.
 *
 * A row is worked on while it lies in the nearest cache. Selection: entries become 32-bit integers that compare as the
 * entries do; a threshold is sought until as many as asked for lie below it, by counting, which wide registers do fast,
 * and starting from the row before. The exact m-th smallest is not needed where no two
 * entries tie.
 *
 * Values are those of plain PyTorch bit by bit in the edit; sums of the gradient run in another order.
 * Compiled without contraction: a * b + c is rounded twice, as PyTorch rounds it.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FLOAT32 = 0, BFLOAT16 = 1 };
enum { DONE = 0, NO_MEMORY = 1, NEEDS_CARE = 2 };

#define INFINITY_BITS 0x7F800000
#define SIZE_BITS 0x7FFFFFFF
#define BLOCK 16      /* entries looked at together when chosen ones are listed */
#define SUM_BLOCK 512 /* entries whose float32 sum is added to a double */

static inline float from_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t to_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static inline uint16_t to_half(float x) {
    uint32_t bits = to_bits(x);
    uint16_t rounded = (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    return (bits & SIZE_BITS) > INFINITY_BITS ? 0x7FC0 : rounded;
}

/* A row as float32: the row itself, or a copy in room. */
static const float *load(int type, const void *rows, int64_t row, int64_t width, float *room) {
    if (type == FLOAT32) return (const float *)rows + row * width;
    const uint16_t *half = (const uint16_t *)rows + row * width;
    for (int64_t i = 0; i < width; i++) room[i] = from_bits((uint32_t)half[i] << 16);
    return room;
}

static void store(int type, void *rows, int64_t row, int64_t width, const float *values) {
    if (type == FLOAT32) {
        float *out = (float *)rows + row * width;
        if (out != values) memcpy(out, values, (size_t)width * 4);
        return;
    }
    uint16_t *half = (uint16_t *)rows + row * width;
    for (int64_t i = 0; i < width; i++) half[i] = to_half(values[i]);
}

static inline void store_one(int type, void *rows, int64_t place, float value) {
    if (type == FLOAT32) ((float *)rows)[place] = value;
    else ((uint16_t *)rows)[place] = to_half(value);
}

static inline int8_t sign_of(float x) { return (int8_t)((x > 0) - (x < 0)); }

/* Whether rows are shared among threads. */
int has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* -- selection ---------------------------------------------------------------------------------------------------- */

/* Integers that compare as |x| do, or as x; -0 equals 0, every NaN is one above infinity. */
static void make_keys(const float *x, int64_t width, int by_size, int32_t *keys) {
    if (by_size) {
        for (int64_t i = 0; i < width; i++) {
            int32_t size = (int32_t)(to_bits(x[i]) & SIZE_BITS);
            keys[i] = size > INFINITY_BITS ? INFINITY_BITS + 1 : size;
        }
        return;
    }
    for (int64_t i = 0; i < width; i++) {
        int32_t bits = (int32_t)to_bits(x[i]);
        int32_t size = bits & SIZE_BITS;
        int32_t key = bits < 0 ? -size : size;
        keys[i] = size > INFINITY_BITS ? INFINITY_BITS + 1 : key;
    }
}

static int64_t count_up_to(const int32_t *keys, int64_t width, int32_t limit) {
    int32_t count = 0;
    for (int64_t i = 0; i < width; i++) count += keys[i] <= limit;
    return count;
}

typedef struct { int32_t at; int64_t ties; } Threshold; /* chosen: all below `at`, and the first `ties` that equal it */

/* Where the m smallest of a row end, 0 < m < width. `guess` is where to look first, and is left at what was found. */
static Threshold find_threshold(const int32_t *keys, int64_t width, int64_t m, int32_t *guess) {
    const int64_t bottom = -(int64_t)INFINITY_BITS - 1, top = (int64_t)INFINITY_BITS + 1;
    int64_t low = bottom, high = top;   /* fewer than m entries lie up to low, at least m up to high */
    int64_t below = 0, above = width;   /* how many do */
    int64_t next = *guess, step = 1 << 18;
    for (int turn = 0; high - low > 1; turn++) {
        if (next <= low) next = low + 1;
        if (next >= high) next = high - 1;
        int64_t count = count_up_to(keys, width, (int32_t)next);
        if (count == m) {
            *guess = (int32_t)next;
            return (Threshold){(int32_t)next, width};
        }
        if (count < m) { low = next; below = count; } else { high = next; above = count; }
        if (high == top || low == bottom) { /* one side only was seen: away from it, in growing steps */
            next = high == top ? low + step : high - step;
            step *= 4;
        } else if (turn % 3) { /* where it would be if entries lay evenly; now and then the middle, which never fails */
            next = low + (int64_t)((double)(m - below) / (double)(above - below) * (double)(high - low));
        } else {
            next = low + (high - low) / 2;
        }
    }
    *guess = (int32_t)high;
    return (Threshold){(int32_t)high, m - below};
}

/* -- the edit ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const float *targets; /* (rows) what is written, already rounded to the type of the rows */
    int keep_sign;        /* whether it takes the sign of the entry */
    double strength;      /* compared as it was given, multiplied as float32 */
} Rule;

static inline float written(float x, float target, const Rule *rule) {
    float goal = rule->keep_sign && x < 0 ? -target : target;
    if (rule->strength == 1.0) return goal;
    return rule->strength == 0.0 ? x : x + (float)rule->strength * (goal - x); /* both ends hold, even beside infinities */
}

/* How chosen entries are named: int32 places and int8 signs, or both as 4 place + sign + 1 in 16 or 32 bits. */
enum { APART = 0, PACKED_16 = 2, PACKED_32 = 4 };

static void name_entries(int form, void *named, int8_t *signs, int64_t row, int64_t m, const int32_t *places,
                         const float *x) {
    if (form == APART) {
        memcpy((int32_t *)named + row * m, places, (size_t)m * 4);
        for (int64_t j = 0; j < m; j++) signs[row * m + j] = sign_of(x[places[j]]);
        return;
    }
    for (int64_t j = 0; j < m; j++) {
        int32_t both = places[j] * 4 + sign_of(x[places[j]]) + 1;
        if (form == PACKED_16) ((int16_t *)named)[row * m + j] = (int16_t)both;
        else ((int32_t *)named)[row * m + j] = both;
    }
}

static void read_entries(int form, const void *named, const int8_t *signs, int64_t row, int64_t m, int32_t *places,
                         int8_t *sign) {
    if (form == APART) {
        memcpy(places, (const int32_t *)named + row * m, (size_t)m * 4);
        memcpy(sign, signs + row * m, (size_t)m);
        return;
    }
    for (int64_t j = 0; j < m; j++) {
        int32_t both = form == PACKED_16 ? ((const uint16_t *)named)[row * m + j] : ((const int32_t *)named)[row * m + j];
        places[j] = both >> 2;
        sign[j] = (int8_t)((both & 3) - 1);
    }
}

/* The chosen places of a row, ascending; `places` has room for one more than the row is wide. */
static void list_places(const int32_t *keys, int64_t width, int64_t m, Threshold threshold, int32_t *places) {
    int64_t found = 0, ties = 0;
    if (threshold.ties < width || m >= width / BLOCK) {
        for (int64_t i = 0; i < width; i++) {
            int equal = keys[i] == threshold.at;
            places[found] = (int32_t)i;
            found += (keys[i] < threshold.at) | (equal & (ties < threshold.ties));
            ties += equal;
        }
        return;
    }
    for (int64_t begin = 0; begin < width && found < m; begin += BLOCK) { /* few: most blocks hold none */
        int64_t end = begin + BLOCK < width ? begin + BLOCK : width;
        int any = end - begin < BLOCK;
        if (!any) for (int64_t j = 0; j < BLOCK; j++) any |= keys[begin + j] <= threshold.at;
        if (!any) continue;
        for (int64_t i = begin; i < end; i++) {
            places[found] = (int32_t)i;
            found += keys[i] <= threshold.at;
        }
    }
}

/* code: 0 where nothing is written, else minus (2 + the sign of what was there). Returns whether a 0 or a NaN is there. */
static int write_codes(int type, const void *rows, void *out, int64_t row, int64_t width, const float *x,
                       const int32_t *keys, Threshold threshold, const Rule *rule, int8_t *code) {
    const float target = rule->targets[row];
    int odd = 0;
    if (threshold.ties >= width) {
        for (int64_t i = 0; i < width; i++) code[i] = (int8_t)(keys[i] <= threshold.at ? -2 - sign_of(x[i]) : 0);
    } else {
        int64_t ties = 0;
        for (int64_t i = 0; i < width; i++) {
            int chosen = keys[i] < threshold.at || (keys[i] == threshold.at && ties++ < threshold.ties);
            code[i] = (int8_t)(chosen ? -2 - sign_of(x[i]) : 0);
        }
    }
    for (int64_t i = 0; i < width; i++) odd |= !(fabsf(x[i]) > 0);
    if (type == FLOAT32) {
        float *to = (float *)out + row * width;
        for (int64_t i = 0; i < width; i++) {
            float value = written(x[i], target, rule);
            to[i] = from_bits(code[i] ? to_bits(value) : to_bits(x[i]));
        }
    } else {
        const uint16_t *from = (const uint16_t *)rows + row * width;
        uint16_t *to = (uint16_t *)out + row * width;
        for (int64_t i = 0; i < width; i++) {
            uint16_t value = to_half(written(x[i], target, rule));
            to[i] = code[i] ? value : from[i];
        }
    }
    return odd;
}

/* Overwrites the m smallest entries of every row, 0 < m < width, and says where.
 *
 * rows, out: (count, width) of the type; out may be rows itself.
 * targets: (count) float32.
 * named, signs: (count, m), ascending, in the form that is asked for.
 * code: (count, width), see write_codes; then no entries are named, and `odd` says whether a 0 or a NaN is among them.
 */
int edit_rows(int type, const void *rows, void *out, const float *targets, int64_t count, int64_t width, int64_t m,
              int by_size, int keep_sign, double strength, int form, void *named, int8_t *signs, int8_t *code, int *odd,
              int threads) {
    const Rule rule = {targets, keep_sign, strength};
    int failed = 0, seen = 0;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed, seen)
    {
        float *room = malloc((size_t)width * 4);
        int32_t *keys = malloc((size_t)width * 4), *places = malloc((size_t)(width + 1) * 4);
        int32_t guess = 0;
        failed = !room || !keys || !places;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < count; row++) {
            if (failed) continue;
            const float *x = load(type, rows, row, width, room);
            make_keys(x, width, by_size, keys);
            Threshold threshold = find_threshold(keys, width, m, &guess);
            if (code) {
                seen |= write_codes(type, rows, out, row, width, x, keys, threshold, &rule, code + row * width);
                continue;
            }
            size_t bytes = (size_t)width * (type == FLOAT32 ? 4 : 2);
            if (out != rows) memcpy((char *)out + row * bytes, (const char *)rows + row * bytes, bytes);
            list_places(keys, width, m, threshold, places);
            name_entries(form, named, signs, row, m, places, x);
            for (int64_t j = 0; j < m; j++)
                store_one(type, out, row * width + places[j], written(x[places[j]], targets[row], &rule));
        }
        free(room);
        free(keys);
        free(places);
    }
    if (odd) *odd = seen;
    return failed ? NO_MEMORY : DONE;
}

/* -- the gradient ------------------------------------------------------------------------------------------------- */

/* ln x of x >= 0, to about one unit in the last place; some finite number at 0. */
static inline float natural_log(float x) {
    int small = x < 1.17549435e-38f;
    float scaled = small ? x * 8388608.0f : x; /* 2^23: numbers below the normal ones have no leading bit */
    int32_t bits = (int32_t)to_bits(scaled);
    int32_t exponent = (bits >> 23) - 127 - (small ? 23 : 0);
    float mantissa = from_bits((uint32_t)((bits & 0x007FFFFF) | 0x3F800000));
    int upper = mantissa > 1.41421356f;
    float f = (upper ? mantissa * 0.5f : mantissa) - 1.0f;
    float power = (float)(exponent + upper);
    float square = f * f;
    float sum = 7.0376836292e-2f;
    sum = sum * f - 1.1514610310e-1f;
    sum = sum * f + 1.1676998740e-1f;
    sum = sum * f - 1.2420140846e-1f;
    sum = sum * f + 1.4249322787e-1f;
    sum = sum * f - 1.6668057665e-1f;
    sum = sum * f + 2.0000714765e-1f;
    sum = sum * f - 2.4999993993e-1f;
    sum = sum * f + 3.3333331174e-1f;
    sum = sum * f * square - 2.12194440e-4f * power - 0.5f * square;
    return (f + sum) + 0.693359375f * power;
}

/* total += factor dH/dy for H the entropy of |y| / sum |y|. Returns 0 for rows that float32 does not carry well. */
static int add_entropy(const float *y, int64_t width, float factor, float *logs, float *total) {
    double size_sum = 0, weighted_sum = 0;
    for (int64_t begin = 0; begin < width; begin += SUM_BLOCK) {
        int64_t end = begin + SUM_BLOCK < width ? begin + SUM_BLOCK : width;
        float sizes = 0, weighted = 0;
#pragma omp simd reduction(+ : sizes, weighted)
        for (int64_t i = begin; i < end; i++) {
            float size = fabsf(y[i]);
            float log = natural_log(size);
            logs[i] = log;
            sizes += size;
            weighted += size * log;
        }
        size_sum += sizes;
        weighted_sum += weighted;
    }
    if (!(size_sum > 1e-3 && size_sum < 1e7)) return 0;
    const float slope = (float)(-factor / size_sum), offset = (float)(factor * weighted_sum / (size_sum * size_sum));
    for (int64_t i = 0; i < width; i++) total[i] += (float)sign_of(y[i]) * (logs[i] * slope + offset);
    return 1;
}

typedef struct {
    int has_mean; /* whether a gradient goes through the mean that was written */
    int by_size;  /* whether that is the mean of magnitudes */
    double spread; /* alpha / width */
    double strength;
} Way;

static void back_to_places(float *total, const float *y, int64_t width, int64_t m, const int32_t *places,
                           const int8_t *signs, const Way *way, float *at) {
    double sum = 0;
    for (int64_t j = 0; j < m; j++) {
        at[j] = total[places[j]];
        sum += way->by_size && signs[j] < 0 ? -at[j] : at[j];
    }
    const float share = way->has_mean ? (float)(sum * (way->spread * way->strength)) : 0.0f;
    if (way->has_mean) {
        if (way->by_size) for (int64_t i = 0; i < width; i++) total[i] += (float)sign_of(y[i]) * share;
        else for (int64_t i = 0; i < width; i++) total[i] += share;
    }
    for (int64_t j = 0; j < m; j++) {
        float kept = way->strength == 1.0 ? 0.0f : (float)(1.0 - way->strength) * at[j];
        float through = !way->has_mean ? 0.0f : way->by_size ? (float)signs[j] * share : share;
        total[places[j]] = kept + through;
    }
}

static void back_to_codes(float *total, const float *y, int64_t width, const int8_t *code, const Way *way) {
    double sum = 0;
    for (int64_t begin = 0; begin < width; begin += SUM_BLOCK) {
        int64_t end = begin + SUM_BLOCK < width ? begin + SUM_BLOCK : width;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = begin; i < end; i++) {
            float through = way->by_size && code[i] == -1 ? -total[i] : total[i]; /* -2 - sign: -1 was negative */
            part += code[i] ? through : 0.0f;
        }
        sum += part;
    }
    const float share = way->has_mean ? (float)(sum * (way->spread * way->strength)) : 0.0f;
    const float rest = (float)(1.0 - way->strength);
    for (int64_t i = 0; i < width; i++) {
        float was = (float)(-2 - code[i]);
        float now = way->by_size ? (float)sign_of(y[i]) : 1.0f;
        float kept = way->strength == 1.0 ? 0.0f : rest * total[i];
        float inside = kept + (way->by_size ? was * share : share);
        float outside = total[i] + now * share;
        total[i] = code[i] ? inside : way->has_mean ? outside : total[i];
    }
}

/* The gradient of rows from that of their edited form, to which the entropy's is added before: result = J^T (grad +
 * factor dH/dy).
 *
 * grad, result: (count, width) of the type. y: the edited rows of the type; NULL where neither signs nor entropy are
 * asked for. factor: (count) float32, rows of 0 are left alone; NULL for none. named and signs, or code, as edit_rows
 * gave them; m = 0 and no code where nothing was overwritten.
 */
int gradient_rows(int type, const void *grad, const void *y, const float *factor, int form, const void *named,
                  const int8_t *signs, const int8_t *code, void *result, int64_t count, int64_t width, int64_t m,
                  int has_mean, int by_size, double spread, double strength, int threads) {
    const Way way = {has_mean, has_mean && by_size, spread, strength};
    int failed = 0, careful = 0;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed, careful)
    {
        float *room = malloc((size_t)width * 4), *room_of_y = malloc((size_t)width * 4);
        float *logs = malloc((size_t)width * 4);
        int32_t *places = malloc((size_t)(m + 1) * 4);
        int8_t *sign = malloc((size_t)m + 1);
        failed = !room || !room_of_y || !logs || !places || !sign;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < count; row++) {
            if (failed) continue;
            float *total = type == FLOAT32 ? (float *)result + row * width : room;
            const float *from = load(type, grad, row, width, total);
            if (from != total) memcpy(total, from, (size_t)width * 4);
            const float *values = y ? load(type, y, row, width, room_of_y) : NULL;
            if (factor && factor[row] != 0) careful |= !add_entropy(values, width, factor[row], logs, total);
            if (code) back_to_codes(total, values, width, code + row * width, &way);
            else if (m) {
                read_entries(form, named, signs, row, m, places, sign);
                back_to_places(total, values, width, m, places, sign, &way, logs);
            }
            store(type, result, row, width, total);
        }
        free(room);
        free(room_of_y);
        free(logs);
        free(places);
        free(sign);
    }
    return failed ? NO_MEMORY : careful ? NEEDS_CARE : DONE;
}
