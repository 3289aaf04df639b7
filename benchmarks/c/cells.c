/* A recurrent network of one row of tanh units, in float64: x, h0, U. */

#include "common.h"

/* y = x + v M, of n units, n a multiple of LANES: eight vectors of sums in registers where there are as many. */
static inline void add_product(const double *x, const double *v, const double *m, long n, double *y) {
    long j = 0;
    for (; j + 8 * LANES <= n; j += 8 * LANES) {
        vec sum[8];
        for (int k = 0; k < 8; k++) sum[k] = load(x + j + k * LANES);
        for (long i = 0; i < n; i++)
            for (int k = 0; k < 8; k++) sum[k] += v[i] * load(m + i * n + j + k * LANES);
        for (int k = 0; k < 8; k++) store(y + j + k * LANES, sum[k]);
    }
    for (; j < n; j += LANES) {
        vec sum = load(x + j);
        for (long i = 0; i < n; i++) sum += v[i] * load(m + i * n + j);
        store(y + j, sum);
    }
}

static void states(const double *x, const double *h0, const double *u, long steps, long n, double *h) {
    for (long t = 0; t < steps; t++) {
        double *now = h + t * n;
        add_product(x + t * n, t ? now - n : h0, u, n, now);
        for (long j = 0; j < n; j++) now[j] = 1 - 2 / (exp(2 * now[j]) + 1); /* tanh: to 1e-16, not to the last bit of small numbers */
    }
}

EXPORT tanh_network(ARGUMENTS) { states(ARRAY(0), ARRAY(1), ARRAY(2), SIZE(0, 0), SIZE(0, 1), RESULT(0)); }

EXPORT tanh_network_gradient(ARGUMENTS) {
    enum { ROWS = 128 };
    long steps = SIZE(0, 0), n = SIZE(0, 1);
    const double *u = ARRAY(2), *h0 = ARRAY(1);
    double *h = malloc(steps * n * sizeof(double)), *turned = malloc(n * n * sizeof(double));
    double *rows = malloc(ROWS * n * sizeof(double)), total = 0, *of_u = RESULT(1), *g = RESULT(2);
    double *direct = malloc(n * sizeof(double));
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++) turned[j * n + i] = u[i * n + j];
    states(ARRAY(0), h0, u, steps, n, h);
    memset(of_u, 0, n * n * sizeof(double));
    memset(g, 0, n * sizeof(double));
    memset(direct, 0, n * sizeof(double));
    for (long end = steps; end > 0; end -= ROWS) {
        long begin = end > ROWS ? end - ROWS : 0;
        for (long t = end - 1; t >= begin; t--) {
            double *row = rows + (t - begin) * n;
            const double *now = h + t * n;
            for (long j = 0; j < n; j++) {
                total += now[j] * now[j];
                row[j] = (g[j] + 2 * now[j]) * (1 - now[j] * now[j]);
            }
            add_product(direct, row, turned, n, g);
        }
        if (!begin) {
            for (long i = 0; i < n; i++)
                for (long j = 0; j < n; j++) of_u[i * n + j] += h0[i] * rows[j];
        }
        long first = begin ? begin : 1;
        if (end > first) dgemm(1, 0, n, n, end - first, h + (first - 1) * n, rows + (first - begin) * n, 1, of_u);
    }
    free(h), free(turned), free(rows), free(direct);
    RESULT(0)[0] = total;
}
