/* Recurrences of a scalar or a few, one at a time or in lanes. */

#include "common.h"

/* ---- look-ahead ------------------------------------------------------------------------------------ */

enum { BLOCK = 512 };

/* y[t] = p y[t - 1] + q y[t - 2] + scale drive[t] from y1 = y[-1] and y2 = y[-2], eight at a time: what a block's drives
   do within the block is a product with a triangle of the impulse response, which waits for nothing, and only what the
   two values before the block do waits for the block before. With a step of -1 time runs from the last to the first. */
static inline void recur(
    const double *drive, double scale, long n, double p, double q, double y1, double y2, double *out, int step) {
    double h[2 * LANES] = {0}; /* the response, with zeros before */
    vec column[LANES], of_y1, of_y2;
    h[LANES] = 1, h[LANES + 1] = p;
    for (int i = 2; i < LANES; i++) h[LANES + i] = p * h[LANES + i - 1] + q * h[LANES + i - 2];
    for (int i = 0; i < LANES; i++) column[i] = scale * load(h + LANES - i);
    of_y1 = p * load(h + LANES) + q * load(h + LANES - 1), of_y2 = q * load(h + LANES);
    const mask turned = {7, 6, 5, 4, 3, 2, 1, 0};
    long t = 0;
    for (; t + LANES <= n; t += LANES) {
        const double *now = step > 0 ? drive + t : drive + n - 1 - t;
        vec even = now[0] * column[0], odd = now[step] * column[1];
        for (int i = 2; i < LANES; i += 2) even += now[i * step] * column[i], odd += now[(i + 1) * step] * column[i + 1];
        vec y = of_y1 * y1 + (q ? of_y2 * y2 + (even + odd) : even + odd);
        y1 = y[LANES - 1], y2 = y[LANES - 2];
        if (step > 0) store(out + t, y);
        else store(out + n - t - LANES, __builtin_shuffle(y, turned));
    }
    for (; t < n; t++) {
        long k = step > 0 ? t : n - 1 - t;
        double y = p * y1 + (q * y2 + scale * drive[k]);
        y2 = y1, y1 = y, out[k] = y;
    }
}

/* ---- AR(2): noise, first, a, b ------------------------------------------------------------------- */

EXPORT ar2(ARGUMENTS) {
    double y[BLOCK], y2 = ARRAY(1)[0], y1 = ARRAY(1)[1], total = 0;
    for (long start = 0, n = SIZE(0, 0); start < n; start += BLOCK) {
        long k = n - start < BLOCK ? n - start : BLOCK;
        recur(ARRAY(0) + start, 1, k, SCALAR(2), SCALAR(3), y1, y2, y, 1);
        y2 = k > 1 ? y[k - 2] : y1, y1 = y[k - 1];
        for (long t = 0; t < k; t++) total += y[t] * y[t];
    }
    RESULT(0)[0] = total;
}

EXPORT ar2_gradient(ARGUMENTS) {
    double p = SCALAR(2), q = SCALAR(3), total = 0, of_p = 0, of_q = 0;
    long n = SIZE(0, 0);
    double *y = malloc((2 * n + 2) * sizeof(double)), *g = y + n + 2;
    y[0] = ARRAY(1)[0], y[1] = ARRAY(1)[1];
    recur(ARRAY(0), 1, n, p, q, y[1], y[0], y + 2, 1);
    recur(y + 2, 2, n, p, q, 0, 0, g, -1);
    for (long t = 0; t < n; t++) total += y[t + 2] * y[t + 2], of_p += g[t] * y[t + 1], of_q += g[t] * y[t];
    free(y);
    RESULT(0)[0] = total, RESULT(1)[0] = of_p, RESULT(2)[0] = of_q;
}

/* ---- GARCH(1,1): r, start, omega, alpha, beta: the recurrence, then what vectorizes ----------------- */

EXPORT garch(ARGUMENTS) {
    const double *x = ARRAY(0);
    double first = SCALAR(1), omega = SCALAR(2), alpha = SCALAR(3), beta = SCALAR(4), total = 0;
    double s2[BLOCK + 1], drive[BLOCK];
    s2[0] = first;
    for (long start = 0, n = SIZE(0, 0); start < n; start += BLOCK) {
        long k = n - start < BLOCK ? n - start : BLOCK;
        for (long t = 0; t < k; t++) drive[t] = omega + alpha * (x[start + t] * x[start + t]);
        recur(drive, 1, k, beta, 0, s2[0], 0, s2 + 1, 1);
        for (long t = 0; t < k; t++) total += log(s2[t]) + x[start + t] * x[start + t] / s2[t];
        s2[0] = s2[k];
    }
    RESULT(0)[0] = 0.5 * total;
}

EXPORT garch_gradient(ARGUMENTS) {
    const double *x = ARRAY(0), omega = SCALAR(2), alpha = SCALAR(3), beta = SCALAR(4);
    long n = SIZE(0, 0);
    double *s2 = malloc((2 * n + 1) * sizeof(double)), *g = s2 + n + 1;
    double total = 0, of_omega = 0, of_alpha = 0, of_beta = 0;
    s2[0] = SCALAR(1);
    for (long t = 0; t < n; t++) g[t] = omega + alpha * (x[t] * x[t]);
    recur(g, 1, n, beta, 0, s2[0], 0, s2 + 1, 1);
    for (long t = 0; t < n; t++) {
        double over = 1 / s2[t], part = x[t] * x[t] * over;
        total += log(s2[t]) + part;
        g[t] = 0.5 * (1 - part) * over;
    }
    recur(g + 1, 1, n - 1, beta, 0, 0, 0, g + 1, -1);
    for (long t = 1; t < n; t++) {
        of_omega += g[t], of_alpha += g[t] * (x[t - 1] * x[t - 1]), of_beta += g[t] * s2[t - 1];
    }
    free(s2);
    RESULT(0)[0] = 0.5 * total, RESULT(1)[0] = of_omega, RESULT(2)[0] = of_alpha, RESULT(3)[0] = of_beta;
}

/* ---- EWMA: x, alpha; one column or lanes of them ---------------------------------------------------- */

EXPORT ewma(ARGUMENTS) {
    const double *x = ARRAY(0), alpha = SCALAR(1);
    recur(x + 1, alpha, SIZE(0, 0) - 1, 1 - alpha, 0, x[0], 0, RESULT(0), 1);
}

EXPORT ewma_lanes(ARGUMENTS) {
    const double *x = ARRAY(0), alpha = SCALAR(1), keep = 1 - alpha;
    long n = SIZE(0, 0), lanes = SIZE(0, 1);
    double *y = RESULT(0);
    for (long j = 0; j < lanes; j++) y[j] = alpha * x[lanes + j] + keep * x[j];
    for (long t = 2; t < n; t++) {
        const double *now = x + t * lanes, *before = y + (t - 2) * lanes;
        double *out = y + (t - 1) * lanes;
#pragma GCC ivdep
        for (long j = 0; j < lanes; j++) out[j] = alpha * now[j] + keep * before[j];
    }
}

/* The derivative by alpha goes forward beside the level, m' = (1 - alpha) m + x - y: one pass, and nothing is kept. */
EXPORT ewma_gradient(ARGUMENTS) {
    const double *x = ARRAY(0), alpha = SCALAR(1), keep = 1 - alpha;
    double y[BLOCK + 1], moved[BLOCK + 1], drive[BLOCK], total = 0, derivative = 0;
    y[0] = x[0], moved[0] = 0;
    for (long start = 1, n = SIZE(0, 0); start < n; start += BLOCK) {
        long k = n - start < BLOCK ? n - start : BLOCK, errors = start + k < n ? k : k - 1;
        recur(x + start, alpha, k, keep, 0, y[0], 0, y + 1, 1);
        for (long t = 0; t < k; t++) drive[t] = x[start + t] - y[t];
        recur(drive, 1, k, keep, 0, moved[0], 0, moved + 1, 1);
        for (long t = 0; t < errors; t++) {
            double e = x[start + t + 1] - y[t + 1];
            total += e * e, derivative -= 2 * e * moved[t + 1];
        }
        y[0] = y[k], moved[0] = moved[k];
    }
    RESULT(0)[0] = total, RESULT(1)[0] = derivative;
}

EXPORT ewma_lanes_gradient(ARGUMENTS) {
    const double *x = ARRAY(0), alpha = SCALAR(1), keep = 1 - alpha;
    long n = SIZE(0, 0), lanes = SIZE(0, 1);
    double level[lanes], moved[lanes], totals[lanes], derivatives[lanes], total = 0, derivative = 0;
    for (long j = 0; j < lanes; j++) level[j] = x[j], moved[j] = totals[j] = derivatives[j] = 0;
    for (long t = 1; t < n; t++) {
        const double *now = x + t * lanes, *next = t + 1 < n ? now + lanes : NULL;
        for (long j = 0; j < lanes; j++) {
            moved[j] = (now[j] - level[j]) + keep * moved[j];
            level[j] = alpha * now[j] + keep * level[j];
        }
        for (long j = 0; next && j < lanes; j++) {
            double e = next[j] - level[j];
            totals[j] += e * e, derivatives[j] -= 2 * e * moved[j];
        }
    }
    for (long j = 0; j < lanes; j++) total += totals[j], derivative += derivatives[j];
    RESULT(0)[0] = total, RESULT(1)[0] = derivative;
}

/* ---- the logistic map: observed, r, x0 --------------------------------------------------------------- */

EXPORT logistic(ARGUMENTS) {
    double rate = SCALAR(1), x = SCALAR(2), *path = RESULT(0);
    for (long t = 0, n = SIZE(0, 0); t < n; t++) path[t] = x = (rate * x) * (1 - x);
}

EXPORT logistic_gradient(ARGUMENTS) {
    const double *observed = ARRAY(0), rate = SCALAR(1);
    long n = SIZE(0, 0);
    double *path = malloc((n + 1) * sizeof(double)), x = SCALAR(2), cost = 0, g = 0, of_rate = 0;
    path[0] = x;
    for (long t = 0; t < n; t++) {
        path[t + 1] = x = (rate * x) * (1 - x);
        cost += (x - observed[t]) * (x - observed[t]);
    }
    for (long t = n - 1; t >= 0; t--) {
        x = path[t];
        g += 2 * (path[t + 1] - observed[t]);
        of_rate += g * (x * (1 - x));
        g *= rate * (1 - 2 * x);
    }
    free(path);
    RESULT(0)[0] = cost, RESULT(1)[0] = of_rate, RESULT(2)[0] = g;
}

/* ---- Lotka–Volterra by RK4: one pair of scalars, and vectors of them ---------------------------------- */

#define REAL double
#define NAMED(name) name##_one
#include "rk4.h"
#undef REAL
#undef NAMED
#define REAL vec
#define NAMED(name) name##_many
#include "rk4.h"

static const double H = 0.01;

/* observed, x0, y0, a, b, c, d: all states of one trajectory */
EXPORT predators(ARGUMENTS) {
    double x = SCALAR(1), y = SCALAR(2);
    struct rates_one p = {SCALAR(3), SCALAR(4), SCALAR(5), SCALAR(6)};
    for (long t = 0, n = SIZE(0, 1); t < n; t++) {
        step_one(&x, &y, H, &p);
        RESULT(0)[t] = x, RESULT(1)[t] = y;
    }
}

EXPORT predators_gradient(ARGUMENTS) {
    long n = SIZE(0, 1);
    const double *ox = ARRAY(0), *oy = ox + n;
    double *xs = malloc(2 * (n + 1) * sizeof(double)), *ys = xs + n + 1, cost = 0;
    double x = SCALAR(1), y = SCALAR(2);
    struct rates_one p = {SCALAR(3), SCALAR(4), SCALAR(5), SCALAR(6)}, of = {0, 0, 0, 0};
    xs[0] = x, ys[0] = y;
    for (long t = 0; t < n; t++) {
        step_one(&x, &y, H, &p);
        xs[t + 1] = x, ys[t + 1] = y;
        cost += (x - ox[t]) * (x - ox[t]) + (y - oy[t]) * (y - oy[t]);
    }
    double gx = 0, gy = 0;
    for (long t = n - 1; t >= 0; t--) {
        gx += 2 * (xs[t + 1] - ox[t]), gy += 2 * (ys[t + 1] - oy[t]);
        pull_step_one(xs[t], ys[t], &gx, &gy, H, &p, &of);
    }
    free(xs);
    double all[] = {cost, gx, gy, of.a, of.b, of.c, of.d};
    for (int i = 0; i < 7; i++) RESULT(i)[0] = all[i];
}

/* x0, y0, a, b, c, d, steps: the last states of many trajectories, a few vectors at a time */
enum { TOGETHER = 4 };

EXPORT predators_lanes(ARGUMENTS) {
    struct rates_many p = {spread(SCALAR(2)), spread(SCALAR(3)), spread(SCALAR(4)), spread(SCALAR(5))};
    long n = (long)SCALAR(6);
    for (long j = 0, lanes = SIZE(0, 0); j < lanes; j += TOGETHER * LANES) {
        vec x[TOGETHER], y[TOGETHER];
        for (int k = 0; k < TOGETHER; k++) x[k] = load(ARRAY(0) + j + k * LANES), y[k] = load(ARRAY(1) + j + k * LANES);
        for (long t = 0; t < n; t++)
            for (int k = 0; k < TOGETHER; k++) step_many(&x[k], &y[k], H, &p);
        for (int k = 0; k < TOGETHER; k++) store(RESULT(0) + j + k * LANES, x[k]), store(RESULT(1) + j + k * LANES, y[k]);
    }
}

EXPORT predators_lanes_gradient(ARGUMENTS) {
    struct rates_many p = {spread(SCALAR(2)), spread(SCALAR(3)), spread(SCALAR(4)), spread(SCALAR(5))};
    struct rates_many of = {spread(0), spread(0), spread(0), spread(0)};
    long n = (long)SCALAR(6);
    vec cost = spread(0), (*kept)[2] = malloc((n + 1) * TOGETHER * sizeof *kept);
    for (long j = 0, lanes = SIZE(0, 0); j < lanes; j += TOGETHER * LANES) {
        vec x[TOGETHER], y[TOGETHER];
        for (int k = 0; k < TOGETHER; k++) x[k] = load(ARRAY(0) + j + k * LANES), y[k] = load(ARRAY(1) + j + k * LANES);
        for (long t = 0; t < n; t++)
            for (int k = 0; k < TOGETHER; k++) {
                kept[t * TOGETHER + k][0] = x[k], kept[t * TOGETHER + k][1] = y[k];
                step_many(&x[k], &y[k], H, &p);
            }
        for (int k = 0; k < TOGETHER; k++) cost += x[k] * x[k] + y[k] * y[k], x[k] *= 2, y[k] *= 2;
        for (long t = n - 1; t >= 0; t--)
            for (int k = 0; k < TOGETHER; k++)
                pull_step_many(kept[t * TOGETHER + k][0], kept[t * TOGETHER + k][1], &x[k], &y[k], H, &p, &of);
        for (int k = 0; k < TOGETHER; k++) store(RESULT(1) + j + k * LANES, x[k]), store(RESULT(2) + j + k * LANES, y[k]);
    }
    free(kept);
    RESULT(0)[0] = sum_of(cost);
    RESULT(3)[0] = sum_of(of.a), RESULT(4)[0] = sum_of(of.b), RESULT(5)[0] = sum_of(of.c), RESULT(6)[0] = sum_of(of.d);
}
