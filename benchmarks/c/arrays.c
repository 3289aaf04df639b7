/* Loops over elements of arrays: powers, fixed points, the Mandelbrot set, norms, a layer, Gibbs sampling. */

#include "common.h"

gemm *blas_dgemm;
gemmf *blas_sgemm;

void set_blas(gemm *d, gemmf *s) { blas_dgemm = d, blas_sgemm = s; }

/* ---- A ** k: A, k. Time goes inside, a tile of elements outside ------------------------------------- */

enum { TILE = 4 };

static inline long tile(const double *x, long left, vec *v) {
    double part[TILE * LANES] = {0};
    left = left < TILE * LANES ? left : TILE * LANES;
    memcpy(part, x, left * sizeof(double));
    for (int j = 0; j < TILE; j++) v[j] = load(part + j * LANES);
    return left * sizeof(double);
}

EXPORT power(ARGUMENTS) {
    for (long start = 0, n = SIZE(0, 0), k = (long)SCALAR(1); start < n; start += TILE * LANES) {
        vec v[TILE], p[TILE];
        long bytes = tile(ARRAY(0) + start, n - start, v);
        for (int j = 0; j < TILE; j++) p[j] = spread(1);
        for (long t = 0; t < k; t++)
            for (int j = 0; j < TILE; j++) p[j] *= v[j];
        memcpy(RESULT(0) + start, p, bytes);
    }
}

/* All powers of a tile stay in the cache until its reverse loop has used them. */
EXPORT power_gradient(ARGUMENTS) {
    long n = SIZE(0, 0), k = (long)SCALAR(1);
    vec total = spread(0), (*kept)[TILE] = malloc((k + 1) * sizeof *kept);
    for (long start = 0; start < n; start += TILE * LANES) {
        vec v[TILE], p[TILE], g[TILE], of[TILE];
        long bytes = tile(ARRAY(0) + start, n - start, v);
        for (int j = 0; j < TILE; j++) p[j] = g[j] = spread(1), of[j] = spread(0);
        for (long t = 0; t < k; t++)
            for (int j = 0; j < TILE; j++) kept[t][j] = p[j], p[j] *= v[j];
        for (long t = k - 1; t >= 0; t--)
            for (int j = 0; j < TILE; j++) of[j] += g[j] * kept[t][j], g[j] *= v[j];
        for (int j = 0; j < TILE; j++) total += p[j]; /* what was filled up with zeros adds nothing */
        memcpy(RESULT(1) + start, of, bytes);
    }
    free(kept);
    RESULT(0)[0] = sum_of(total);
}

/* ---- x = cos(a x) until nothing moves: x0, a, most ---------------------------------------------------- */

static const double TOLERANCE = 1e-10;

EXPORT convergence(ARGUMENTS) {
    long n = SIZE(0, 0), most = (long)SCALAR(2);
    double c = SCALAR(1), *x = RESULT(0);
    memcpy(x, ARRAY(0), n * sizeof(double));
    for (long t = 0; t < most; t++) {
        double moved = 0;
        for (long i = 0; i < n; i++) {
            double new = cos(c * x[i]), by = fabs(new - x[i]);
            moved = by > moved ? by : moved, x[i] = new;
        }
        if (moved < TOLERANCE) break;
    }
}

EXPORT convergence_gradient(ARGUMENTS) {
    long n = SIZE(0, 0), most = (long)SCALAR(2), room = 64, t = 0;
    double c = SCALAR(1), *tape = malloc((room + 1) * n * sizeof(double)), total = 0, of_c = 0, *g = RESULT(2);
    memcpy(tape, ARRAY(0), n * sizeof(double));
    for (double moved = 1; t < most && !(moved < TOLERANCE); t++) {
        if (t == room) tape = realloc(tape, ((room *= 2) + 1) * n * sizeof(double));
        double *x = tape + t * n, *new = x + n;
        moved = 0;
#pragma GCC ivdep
        for (long i = 0; i < n; i++) {
            new[i] = cos(c * x[i]);
            double by = fabs(new[i] - x[i]);
            moved = by > moved ? by : moved;
        }
    }
    for (long i = 0; i < n; i++) total += tape[t * n + i], g[i] = 1;
    while (t-- > 0) {
        const double *x = tape + t * n;
        for (long i = 0; i < n; i++) {
            double slope = -g[i] * sin(c * x[i]);
            of_c += slope * x[i], g[i] = slope * c;
        }
    }
    free(tape);
    RESULT(0)[0] = total, RESULT(1)[0] = of_c;
}

/* ---- the Mandelbrot set: real and imaginary parts, and how many steps ----------------------------------- */

enum { BESIDE = 4 };

static inline vec chosen(mask which, vec v, vec w) { return (vec)(((mask)v & which) | ((mask)w & ~which)); }

static inline long one_of(mask m) {
    long any = 0;
    for (int j = 0; j < LANES; j++) any |= m[j];
    return any;
}

EXPORT mandelbrot(ARGUMENTS) {
    long n = SIZE(0, 0) * SIZE(0, 1), most = (long)SCALAR(2);
    for (long i = 0; i < n; i += BESIDE * LANES) {
        vec x[BESIDE], y[BESIDE], cx[BESIDE], cy[BESIDE], count[BESIDE];
        for (int k = 0; k < BESIDE; k++) {
            cx[k] = load(ARRAY(0) + i + k * LANES), cy[k] = load(ARRAY(1) + i + k * LANES);
            x[k] = y[k] = count[k] = spread(0);
        }
        for (long t = 0; t < most; t++) {
            mask any = {0};
            for (int k = 0; k < BESIDE; k++) {
                vec xx = x[k] * x[k], yy = y[k] * y[k];
                mask live = xx + yy < 4;
                vec new_y = 2 * x[k] * y[k] + cy[k], new_x = xx - yy + cx[k];
                count[k] += chosen(live, spread(1), spread(0));
                y[k] = chosen(live, new_y, y[k]), x[k] = chosen(live, new_x, x[k]);
                any |= live;
            }
            if (t % 4 == 3 && !one_of(any)) break;
        }
        for (int k = 0; k < BESIDE; k++) store(RESULT(0) + i + k * LANES, count[k]);
    }
}

/* ---- norms of rows and columns: X ------------------------------------------------------------------------ */

static void norms_of(const double *x, long m, long n, double *rows, double *columns) {
    memset(columns, 0, n * sizeof(double));
    for (long i = 0; i < m; i++) {
        double total = 0;
        for (long j = 0; j < n; j++) {
            double square = x[i * n + j] * x[i * n + j];
            total += square, columns[j] += square;
        }
        rows[i] = sqrt(total);
    }
    for (long j = 0; j < n; j++) columns[j] = sqrt(columns[j]);
}

EXPORT norms(ARGUMENTS) { norms_of(ARRAY(0), SIZE(0, 0), SIZE(0, 1), RESULT(0), RESULT(1)); }

EXPORT norms_gradient(ARGUMENTS) {
    const double *x = ARRAY(0);
    long m = SIZE(0, 0), n = SIZE(0, 1);
    double *rows = malloc((m + n) * sizeof(double)), *columns = rows + m, *g = RESULT(1), total = 0;
    norms_of(x, m, n, rows, columns);
    for (long i = 0; i < m + n; i++) total += rows[i], rows[i] = 1 / rows[i];
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j++) g[i * n + j] = x[i * n + j] * (rows[i] + columns[j]);
    free(rows);
    RESULT(0)[0] = total;
}

/* ---- rows through tanh(x W + b), float32: X, W, b ---------------------------------------------------------- */

enum { ROWS = 64 }; /* so many at a time stay in the cache */

static void layer_rows(const float *x, const float *w, const float *b, long m, long k, long n, float *y) {
    for (long i = 0; i < m; i++) memcpy(y + i * n, b, n * sizeof(float));
    sgemm(0, 0, m, n, k, x, w, 1, y);
    for (long i = 0; i < m * n; i++) y[i] = tanhf(y[i]);
}

EXPORT layer(ARGUMENTS) {
    long m = SIZE(0, 0), k = SIZE(0, 1), n = SIZE(1, 1);
    for (long i = 0; i < m; i += ROWS)
        layer_rows(ARRAYF(0) + i * k, ARRAYF(1), ARRAYF(2), m - i < ROWS ? m - i : ROWS, k, n, RESULTF(0) + i * n);
}

EXPORT layer_gradient(ARGUMENTS) {
    long m = SIZE(0, 0), k = SIZE(0, 1), n = SIZE(1, 1);
    float *of_b = RESULTF(2), *y = malloc(m * n * sizeof(float));
    double total = 0;
    layer_rows(ARRAYF(0), ARRAYF(1), ARRAYF(2), m, k, n, y);
    memset(of_b, 0, n * sizeof(float));
    for (long i = 0; i < m; i++) {
        float *row = y + i * n, part = 0;
        for (long j = 0; j < n; j++) {
            float v = row[j], square = v * v;
            part += square, row[j] = v = 2 * v * (1 - square), of_b[j] += v;
        }
        total += part;
    }
    sgemm(1, 0, k, n, m, ARRAYF(0), y, 0, RESULTF(1));
    free(y);
    RESULTF(0)[0] = total;
}

/* ---- Gibbs sampling of an RBM, float32: W, of visible, of hidden, first, steps; numbers by xoshiro256+ ---------- */

typedef unsigned long bits __attribute__((vector_size(8 * LANES)));
static bits seeds[4];

static bits next_bits(void) {
    bits result = seeds[0] + seeds[3], t = seeds[1] << 17;
    seeds[2] ^= seeds[0], seeds[3] ^= seeds[1], seeds[1] ^= seeds[2], seeds[0] ^= seeds[3], seeds[2] ^= t;
    seeds[3] = (seeds[3] << 45) | (seeds[3] >> 19);
    return result;
}

/* Uniform numbers, two of a word; as many as fit into whole vectors, so there must be room. */
static void uniform(float *u, long n) {
    for (long i = 0; i < n; i += 2 * LANES) {
        bits b = next_bits();
        for (int j = 0; j < LANES; j++) {
            u[i + j] = (int)(b[j] >> 40) * 0x1p-24f;
            u[i + LANES + j] = (int)(b[j] >> 16 & 0xffffff) * 0x1p-24f;
        }
    }
}

static void layer_of_units(
    int transposed, const float *from, const float *w, const float *b, long m, long k, long n, float *p, float *u, float *to) {
    for (long i = 0; i < m; i++) memcpy(p + i * n, b, n * sizeof(float));
    sgemm(0, transposed, m, n, k, from, w, 1, p);
    uniform(u, m * n);
    for (long i = 0; i < m * n; i++) {
        p[i] = 1 / (1 + expf(-p[i]));
        to[i] = u[i] < p[i] ? 1.0f : 0.0f;
    }
}

EXPORT gibbs(ARGUMENTS) {
    long visible = SIZE(0, 0), hidden = SIZE(0, 1), m = SIZE(3, 0), n = (long)SCALAR(4);
    const float *w = ARRAYF(0);
    float *v = malloc(m * visible * sizeof(float)), *h = malloc(m * hidden * sizeof(float));
    float *p = malloc(m * visible * sizeof(float)), *u = malloc((m * visible + 2 * LANES) * sizeof(float));
    float *mean = RESULTF(0);
    unsigned long x = 1;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < LANES; j++) seeds[i][j] = x = x * 6364136223846793005u + 1442695040888963407u;
    memcpy(v, ARRAYF(3), m * visible * sizeof(float));
    memset(mean, 0, visible * sizeof(float));
    for (long t = 0; t < n; t++) {
        layer_of_units(0, v, w, ARRAYF(2), m, visible, hidden, p, u, h);
        layer_of_units(1, h, w, ARRAYF(1), m, hidden, visible, p, u, v);
        for (long i = 0; i < m; i++)
            for (long j = 0; j < visible; j++) mean[j] += p[i * visible + j];
    }
    for (long j = 0; j < visible; j++) mean[j] /= m * n;
    free(v), free(h), free(p), free(u);
}
