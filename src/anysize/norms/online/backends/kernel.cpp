// Online Normalization on a CPU, forward and backward: see pytorch.py for the mathematics.
//
// The samples of a batch depend on each other through (N, C) numbers alone. A block of samples that fits the second-level
// cache is read for its sums, the recurrences run over it in double, and it is read again from the cache for the one
// element-wise pass: memory sees five passes in all, forward 1 read and 1 write, backward 2 reads and 1 write.
// Within a block the samples are shared out over the threads, in the recurrences the channels. Each sum is made by one
// thread in one order, so that results do not depend on the number of threads; with layer scaling in groups of channels
// that 64 is no multiple of, up to the rounding of a double.
//
// No header but the standard library's: compiles in seconds, and fits any version of torch. Called through ctypes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

using i64 = int64_t;
constexpr i64 kBlockBytes = 256 << 10;  // of each tensor, a thread and block: an eighth of a second-level cache, so that all that a block touches stays in it

constexpr i64 kRun = 4096;  // positions that are added up in the accumulator's type, before their sum goes into a double
constexpr i64 kChannels = 64;  // threads share channels in multiples of this, so that tiles are cut alike for any number

struct bf16 { uint16_t bits; };
#if defined(__FLT16_MAX__)
#define ANYSIZE_HALF 1
using half = _Float16;
#endif

// Element type T, accumulator type A, and vectors of 64 bytes of A, which the compiler cuts to what the machine has.
template <typename T> struct Element;

template <> struct Element<float> {
  using A = float;
  typedef float V __attribute__((vector_size(64)));
  static constexpr i64 W = 16;
  static V load(const float* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
  static void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }
  static float get(float x) { return x; }
  static float put(float x) { return x; }
};

template <> struct Element<double> {
  using A = double;
  typedef double V __attribute__((vector_size(64)));
  static constexpr i64 W = 8;
  static V load(const double* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
  static void store(double* p, V v) { std::memcpy(p, &v, sizeof v); }
  static double get(double x) { return x; }
  static double put(double x) { return x; }
};

template <> struct Element<bf16> {
  using A = float;
  typedef float V __attribute__((vector_size(64)));
  typedef uint32_t U __attribute__((vector_size(64)));
  typedef uint16_t H __attribute__((vector_size(32)));
  static constexpr i64 W = 16;
  static V load(const bf16* p) { H h; std::memcpy(&h, p, sizeof h); return (V)(__builtin_convertvector(h, U) << 16); }
  static void store(bf16* p, V v) {  // to nearest, ties to even
    U u = (U)v;
    const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const U nan = (U)(v != v);
    const H h = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), H);
    std::memcpy(p, &h, sizeof h);
  }
  static float get(bf16 x) { uint32_t u = uint32_t(x.bits) << 16; float f; std::memcpy(&f, &u, 4); return f; }
  static bf16 put(float x) {
    uint32_t u; std::memcpy(&u, &x, 4);
    return bf16{x != x ? uint16_t(0x7fc0) : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
  }
};

#ifdef ANYSIZE_HALF
template <> struct Element<half> {
  using A = float;
  typedef float V __attribute__((vector_size(64)));
  typedef half H __attribute__((vector_size(32)));
  static constexpr i64 W = 16;
  static V load(const half* p) { H h; std::memcpy(&h, p, sizeof h); return __builtin_convertvector(h, V); }
  static void store(half* p, V v) { const H h = __builtin_convertvector(v, H); std::memcpy(p, &h, sizeof h); }
  static float get(half x) { return float(x); }
  static half put(float x) { return half(x); }
};
#endif

struct Shape {
  i64 N, C, D;
  bool channels_last;
};

struct Settings {
  double decay, eps, ls_eps, clamp, alpha_min;
  int ecm, groups, threads;  // ecm: 0 none, 1 layer scaling, 2 activation clamping
};

struct Range { i64 begin, end; };

// The part of `count` that belongs to `part` of `parts`, in multiples of `grain`.
Range share(i64 count, i64 part, i64 parts, i64 grain) {
  const i64 units = (count + grain - 1) / grain;
  return {std::min(count, units * part / parts * grain), std::min(count, units * (part + 1) / parts * grain)};
}

void barrier() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

template <typename F> void in_parallel(int threads, F run) {
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    run(i64(omp_get_thread_num()), i64(omp_get_num_threads()));
    return;
  }
#endif
  run(i64(0), i64(1));
}

template <typename V> auto sum_lanes(V v) {
  constexpr int lanes = sizeof(V) / sizeof(v[0]);
  auto s = v[0];
  for (int i = 1; i < lanes; i++) s += v[i];
  return s;
}

template <typename V, typename M> V where_zero(M drop, V v) {  // 0 where the mask is set
  return (V)((M)v & ~drop);
}

// ---------------------------------------------------------------------------------- one sample, channels [c0, c1)
// Values are taken relative to a centre a channel. What a pass does to a value is a functor: `Sums` adds up two sums a
// channel, `Map` writes one value. `Op::two` says whether it reads two tensors.

template <typename E> struct Coefficients {  // of one channel, as scalar or vector
  typename E::A centre, scale, offset, slope, rest;
};

template <typename T, bool Two, bool Clamp> struct Sums {
  using E = Element<T>;
  using A = typename E::A;
  using V = typename E::V;
  // Forward: sums of d and d^2. Backward: sums of g and g d, g being 0 where the output was clamped.
  static void one(V d, V g, V scale, V offset, A limit, V& s0, V& s1) {
    if constexpr (!Two) {
      s0 += d; s1 += d * d;
    } else {
      if constexpr (Clamp) { const V z = d * scale + offset; const auto drop = (z > limit) | (z < -limit); g = where_zero(drop, g); }
      s0 += g; s1 += g * d;
    }
  }
};

template <typename T, bool Two, bool Clamp> struct Map {
  using E = Element<T>;
  using A = typename E::A;
  using V = typename E::V;
  // Forward: d scale + offset, clamped. Backward: g scale + d slope + rest, g being 0 where the output was clamped.
  static V one(V d, V g, V scale, V offset, V slope, V rest, V gscale, A limit) {
    if constexpr (!Two) {
      V z = d * scale + offset;
      if constexpr (Clamp) {
        const V top = V{} + limit;
        z = z > top ? top : z;
        z = z < -top ? -top : z;
      }
      return z;
    } else {
      if constexpr (Clamp) { const V z = d * scale + offset; const auto drop = (z > limit) | (z < -limit); g = where_zero(drop, g); }
      return g * gscale + d * slope + rest;
    }
  }
};

// Arrays of one sample, C long.
template <typename A> struct Row {
  const A *centre, *scale, *offset, *slope, *rest, *gscale;
};

template <typename T, bool Two, bool Clamp>
void sums_planes(const T* x, const T* g, Row<typename Element<T>::A> r, typename Element<T>::A limit, i64 c0, i64 c1, i64 D,
                 typename Element<T>::A* first, typename Element<T>::A* second) {
  using E = Element<T>; using A = typename E::A; using V = typename E::V; using S = Sums<T, Two, Clamp>;
  constexpr i64 W = E::W;
  for (i64 c = c0; c < c1; c++) {
    const T* xp = x + c * D; const T* gp = Two ? g + c * D : nullptr;
    const A mm = r.centre[c];
    const V scale = V{} + (Clamp ? r.scale[c] : A(0)), offset = V{} + (Clamp ? r.offset[c] : A(0));
    double total0 = 0, total1 = 0;
    for (i64 begin = 0; begin < D; begin += kRun) {
      const i64 end = std::min(D, begin + kRun);
      V s0[4] = {}, s1[4] = {};
      i64 i = begin;
      for (; i + 4 * W <= end; i += 4 * W)
        for (int k = 0; k < 4; k++)
          S::one(E::load(xp + i + k * W) - mm, Two ? E::load(gp + i + k * W) : V{}, scale, offset, limit, s0[k], s1[k]);
      for (; i + W <= end; i += W) S::one(E::load(xp + i) - mm, Two ? E::load(gp + i) : V{}, scale, offset, limit, s0[0], s1[0]);
      A t0 = 0, t1 = 0;
      for (; i < end; i++) {
        const A d = E::get(xp[i]) - mm;
        if constexpr (!Two) { t0 += d; t1 += d * d; }
        else {
          A gg = E::get(gp[i]);
          if constexpr (Clamp) { const A z = d * scale[0] + offset[0]; if (z > limit || z < -limit) gg = 0; }
          t0 += gg; t1 += gg * d;
        }
      }
      if (end - begin >= W) { t0 += sum_lanes((s0[0] + s0[1]) + (s0[2] + s0[3])); t1 += sum_lanes((s1[0] + s1[1]) + (s1[2] + s1[3])); }
      total0 += double(t0); total1 += double(t1);
    }
    first[c] = A(total0); second[c] = A(total1);
  }
}

template <typename T, bool Two, bool Clamp>
void map_planes(const T* x, const T* g, T* out, Row<typename Element<T>::A> r, typename Element<T>::A limit, i64 c0, i64 c1, i64 D) {
  using E = Element<T>; using A = typename E::A; using V = typename E::V; using M = Map<T, Two, Clamp>;
  constexpr i64 W = E::W;
  for (i64 c = c0; c < c1; c++) {
    const T* xp = x + c * D; const T* gp = Two ? g + c * D : nullptr; T* op = out + c * D;
    const A mm = r.centre[c];
    const bool forward = !Two || Clamp;
    const V scale = V{} + (forward ? r.scale[c] : A(0)), offset = V{} + (forward ? r.offset[c] : A(0));
    const V slope = V{} + (Two ? r.slope[c] : A(0)), rest = V{} + (Two ? r.rest[c] : A(0)), gscale = V{} + (Two ? r.gscale[c] : A(0));
    i64 i = 0;
    for (; i + W <= D; i += W)
      E::store(op + i, M::one(E::load(xp + i) - mm, Two ? E::load(gp + i) : V{}, scale, offset, slope, rest, gscale, limit));
    for (; i < D; i++) {
      const A d = E::get(xp[i]) - mm;
      A z;
      if constexpr (!Two) {
        z = d * scale[0] + offset[0];
        if constexpr (Clamp) { z = z > limit ? limit : z; z = z < -limit ? -limit : z; }
      } else {
        A gg = E::get(gp[i]);
        if constexpr (Clamp) { const A y = d * scale[0] + offset[0]; if (y > limit || y < -limit) gg = 0; }
        z = gg * gscale[0] + d * slope[0] + rest[0];
      }
      op[i] = E::put(z);
    }
  }
}

// Channels last: tiles of NV vectors of channels, all positions of a tile at once.
template <typename T, bool Two, bool Clamp, int NV>
void sums_tile(const T* x, const T* g, Row<typename Element<T>::A> r, typename Element<T>::A limit, i64 c, i64 C, i64 D,
               typename Element<T>::A* first, typename Element<T>::A* second) {
  using E = Element<T>; using A = typename E::A; using V = typename E::V; using S = Sums<T, Two, Clamp>;
  using EA = Element<A>;
  constexpr i64 W = E::W;
  constexpr int U = 4 / NV;  // positions at a time, so that eight sums are under way
  V mm[NV], scale[NV], offset[NV], s0[U][NV], s1[U][NV];
  for (int k = 0; k < NV; k++) {
    mm[k] = EA::load(r.centre + c + k * W);
    scale[k] = Clamp ? EA::load(r.scale + c + k * W) : V{};
    offset[k] = Clamp ? EA::load(r.offset + c + k * W) : V{};
  }
  double total0[NV * W] = {}, total1[NV * W] = {};
  for (i64 begin = 0; begin < D; begin += kRun) {
    const i64 end = std::min(D, begin + kRun);
    i64 i = begin;
    for (int j = 0; j < U; j++)
      for (int k = 0; k < NV; k++) s0[j][k] = s1[j][k] = V{};
    for (; i + U <= end; i += U)
      for (int j = 0; j < U; j++)
        for (int k = 0; k < NV; k++) {
          const i64 at = (i + j) * C + c + k * W;
          S::one(E::load(x + at) - mm[k], Two ? E::load(g + at) : V{}, scale[k], offset[k], limit, s0[j][k], s1[j][k]);
        }
    for (; i < end; i++)
      for (int k = 0; k < NV; k++) {
        const i64 at = i * C + c + k * W;
        S::one(E::load(x + at) - mm[k], Two ? E::load(g + at) : V{}, scale[k], offset[k], limit, s0[0][k], s1[0][k]);
      }
    for (int k = 0; k < NV; k++) {
      for (int j = 1; j < U; j++) { s0[0][k] += s0[j][k]; s1[0][k] += s1[j][k]; }
      for (i64 w = 0; w < W; w++) { total0[k * W + w] += s0[0][k][w]; total1[k * W + w] += s1[0][k][w]; }
    }
  }
  for (i64 k = 0; k < NV * W; k++) { first[c + k] = A(total0[k]); second[c + k] = A(total1[k]); }
}

template <typename T, bool Two, bool Clamp, int NV>
void map_tile(const T* x, const T* g, T* out, Row<typename Element<T>::A> r, typename Element<T>::A limit, i64 c, i64 C, i64 D) {
  using E = Element<T>; using A = typename E::A; using V = typename E::V; using M = Map<T, Two, Clamp>;
  using EA = Element<A>;
  constexpr i64 W = E::W;
  V mm[NV], scale[NV], offset[NV], slope[NV], rest[NV], gscale[NV];
  for (int k = 0; k < NV; k++) {
    const i64 at = c + k * W;
    const bool forward = !Two || Clamp;
    mm[k] = EA::load(r.centre + at);
    scale[k] = forward ? EA::load(r.scale + at) : V{};
    offset[k] = forward ? EA::load(r.offset + at) : V{};
    slope[k] = Two ? EA::load(r.slope + at) : V{};
    rest[k] = Two ? EA::load(r.rest + at) : V{};
    gscale[k] = Two ? EA::load(r.gscale + at) : V{};
  }
  for (i64 i = 0; i < D; i++)
    for (int k = 0; k < NV; k++) {
      const i64 at = i * C + c + k * W;
      E::store(out + at, M::one(E::load(x + at) - mm[k], Two ? E::load(g + at) : V{}, scale[k], offset[k], slope[k], rest[k], gscale[k], limit));
    }
}

template <typename T, bool Two, bool Clamp>
void sums(const T* x, const T* g, Row<typename Element<T>::A> r, typename Element<T>::A limit, i64 c0, i64 c1, const Shape& s,
          typename Element<T>::A* first, typename Element<T>::A* second) {
  using E = Element<T>; using A = typename E::A;
  if (!s.channels_last) return sums_planes<T, Two, Clamp>(x, g, r, limit, c0, c1, s.D, first, second);
  constexpr i64 W = E::W;
  i64 c = c0;
  for (; c + 4 * W <= c1; c += 4 * W) sums_tile<T, Two, Clamp, 4>(x, g, r, limit, c, s.C, s.D, first, second);
  for (; c + 2 * W <= c1; c += 2 * W) sums_tile<T, Two, Clamp, 2>(x, g, r, limit, c, s.C, s.D, first, second);
  for (; c + W <= c1; c += W) sums_tile<T, Two, Clamp, 1>(x, g, r, limit, c, s.C, s.D, first, second);
  if (c == c1) return;
  double total0[W] = {}, total1[W] = {};
  for (i64 i = 0; i < s.D; i++)
    for (i64 k = c; k < c1; k++) {
      const A d = E::get(x[i * s.C + k]) - r.centre[k];
      if constexpr (!Two) { total0[k - c] += d; total1[k - c] += d * d; }
      else {
        A gg = E::get(g[i * s.C + k]);
        if constexpr (Clamp) { const A z = d * r.scale[k] + r.offset[k]; if (z > limit || z < -limit) gg = 0; }
        total0[k - c] += gg; total1[k - c] += gg * d;
      }
    }
  for (i64 k = c; k < c1; k++) { first[k] = A(total0[k - c]); second[k] = A(total1[k - c]); }
}

template <typename T, bool Two, bool Clamp>
void map(const T* x, const T* g, T* out, Row<typename Element<T>::A> r, typename Element<T>::A limit, i64 c0, i64 c1, const Shape& s) {
  using E = Element<T>; using A = typename E::A;
  if (!s.channels_last) return map_planes<T, Two, Clamp>(x, g, out, r, limit, c0, c1, s.D);
  constexpr i64 W = E::W;
  i64 c = c0;
  for (; c + 4 * W <= c1; c += 4 * W) map_tile<T, Two, Clamp, 4>(x, g, out, r, limit, c, s.C, s.D);
  for (; c + 2 * W <= c1; c += 2 * W) map_tile<T, Two, Clamp, 2>(x, g, out, r, limit, c, s.C, s.D);
  for (; c + W <= c1; c += W) map_tile<T, Two, Clamp, 1>(x, g, out, r, limit, c, s.C, s.D);
  if (c == c1) return;
  for (i64 i = 0; i < s.D; i++)
    for (i64 k = c; k < c1; k++) {
      const i64 at = i * s.C + k;
      const A d = E::get(x[at]) - r.centre[k];
      A z;
      if constexpr (!Two) {
        z = d * r.scale[k] + r.offset[k];
        if constexpr (Clamp) { z = z > limit ? limit : z; z = z < -limit ? -limit : z; }
      } else {
        A gg = E::get(g[at]);
        if constexpr (Clamp) { const A y = d * r.scale[k] + r.offset[k]; if (y > limit || y < -limit) gg = 0; }
        z = gg * r.gscale[k] + d * r.slope[k] + r.rest[k];
      }
      out[at] = E::put(z);
    }
}

// ------------------------------------------------------------------------------------------------- whole batches

// How a batch is cut: blocks of samples, and each block into pieces (a sample, or a range of its channels).
struct Cut {
  i64 block, pieces;
  Cut(const Shape& s, i64 threads, i64 bytes) {
    const i64 sample = std::max<i64>(1, s.C * s.D * bytes);
    block = std::min(s.N, threads * std::max<i64>(1, kBlockBytes / sample));
    pieces = block >= threads ? 1 : std::min((threads + block - 1) / block, std::max<i64>(1, s.C / kChannels));
  }
};

template <typename F> void share_pieces(const Cut& cut, i64 n0, i64 n1, i64 C, i64 thread, i64 threads, F run) {
  const Range mine = share((n1 - n0) * cut.pieces, thread, threads, 1);
  for (i64 k = mine.begin; k < mine.end; k++) {
    const Range channels = share(C, k % cut.pieces, cut.pieces, kChannels);
    if (channels.begin < channels.end) run(n0 + k / cut.pieces, channels.begin, channels.end);
  }
}

double layer_scale(const double* y1, const double* y2, const double* w, const double* b, i64 begin, i64 end, double ls_eps) {
  double q = 0;
  if (w) for (i64 c = begin; c < end; c++) q += w[c] * w[c] * y2[c] + 2 * w[c] * b[c] * y1[c] + b[c] * b[c];
  else for (i64 c = begin; c < end; c++) q += y2[c];
  return std::sqrt(q / (end - begin) + ls_eps);
}

struct Affine {
  std::vector<double> weight, bias;
  template <typename A> Affine(const A* w, const A* b, i64 C) {
    if (w) { weight.assign(w, w + C); bias.assign(b, b + C); }
  }
  const double* w() const { return weight.empty() ? nullptr : weight.data(); }
  const double* b() const { return bias.empty() ? nullptr : bias.data(); }
};

// start: (3, C), centre, m and var before the batch. first, within: (N, C), mean relative to m, and variance, of each plane.
template <typename T>
void forward(const T* x, T* out, const typename Element<T>::A* weight, const typename Element<T>::A* bias, double* m, double* var,
             double* start, typename Element<T>::A* first, typename Element<T>::A* within, const Shape& s, const Settings& o) {
  using E = Element<T>; using A = typename E::A;
  const i64 N = s.N, C = s.C, D = s.D, plane = C * D;
  const double keep = o.decay, learn = 1 - o.decay;
  const Affine affine(weight, bias, C);
  const double *w = affine.w(), *b = affine.b();
  std::vector<A> centre(C, A(0)), sum(C), scale(N * C), offset(N * C);
  std::vector<double> y1, y2;
  if (o.ecm == 1) { y1.resize(N * C); y2.resize(N * C); }
  const A limit = A(o.clamp);
  for (i64 c = 0; c < C; c++) { start[C + c] = m[c]; start[2 * C + c] = var[c]; }
  in_parallel(o.threads, [&](i64 thread, i64 threads) {
    const Cut cut(s, threads, sizeof(T));
    const Range mine = share(C, thread, threads, kChannels);
    const Row<A> zero{centre.data(), nullptr, nullptr, nullptr, nullptr, nullptr};
    if (mine.begin < mine.end) {  // centred on the first sample, nothing cancels however far the data is from zero
      sums<T, false, false>(x, nullptr, zero, limit, mine.begin, mine.end, s, sum.data(), first);
    }
    barrier();
    for (i64 c = mine.begin; c < mine.end; c++) { centre[c] = A(double(sum[c]) / D); start[c] = centre[c]; }
    barrier();
    for (i64 n0 = 0; n0 < N; n0 += cut.block) {
      const i64 n1 = std::min(N, n0 + cut.block);
      share_pieces(cut, n0, n1, C, thread, threads, [&](i64 n, i64 c0, i64 c1) {
        sums<T, false, false>(x + n * plane, nullptr, zero, limit, c0, c1, s, first + n * C, within + n * C);
      });
      barrier();
      for (i64 n = n0; n < n1; n++) {
        A *f = first + n * C, *v = within + n * C, *sc = scale.data() + n * C, *of = offset.data() + n * C;
        double *z1 = o.ecm == 1 ? y1.data() + n * C : nullptr, *z2 = o.ecm == 1 ? y2.data() + n * C : nullptr;
#pragma omp simd
        for (i64 c = mine.begin; c < mine.end; c++) {
          const double mean = double(f[c]) / D, square = double(v[c]) / D, shift = m[c] - double(centre[c]);
          const double rest = square - mean * mean, spread = rest > 0 || rest != rest ? rest : 0, d = mean - shift;
          const A inverse = A(1) / std::sqrt(A(var[c] + o.eps));
          const double inv = inverse, gain = w ? inv * w[c] : inv;
          f[c] = A(d); v[c] = A(spread);
          sc[c] = A(gain); of[c] = A((b ? b[c] : 0.0) - shift * gain);
          if (z1) { z1[c] = d * inv; z2[c] = (spread + d * d) * inv * inv; }
          var[c] = keep * var[c] + learn * spread + keep * learn * d * d;
          m[c] += learn * d;
        }
      }
      barrier();
      share_pieces(cut, n0, n1, C, thread, threads, [&](i64 n, i64 c0, i64 c1) {
        A *sc = scale.data() + n * C, *of = offset.data() + n * C;
        if (o.ecm == 1) {
          const i64 size = C / o.groups;
          for (i64 begin = c0 / size * size; begin < c1; begin += size) {
            const double zeta = layer_scale(&y1[n * C], &y2[n * C], w, b, begin, begin + size, o.ls_eps);
            for (i64 c = std::max(begin, c0); c < std::min(begin + size, c1); c++) { sc[c] = A(sc[c] / zeta); of[c] = A(of[c] / zeta); }
          }
        }
        const Row<A> r{centre.data(), sc, of, nullptr, nullptr, nullptr};
        if (o.ecm == 2) map<T, false, true>(x + n * plane, nullptr, out + n * plane, r, limit, c0, c1, s);
        else map<T, false, false>(x + n * plane, nullptr, out + n * plane, r, limit, c0, c1, s);
      });
    }
  });
}

template <typename T>
void backward(const T* grad, const T* x, T* out, const typename Element<T>::A* weight, const typename Element<T>::A* bias,
              const double* start, const typename Element<T>::A* first, const typename Element<T>::A* within, double* u, double* v,
              double* grad_weight, double* grad_bias, double forward_decay, const Shape& s, const Settings& o) {
  using E = Element<T>; using A = typename E::A;
  const i64 N = s.N, C = s.C, D = s.D, plane = C * D;
  const double keep = forward_decay, learn = 1 - keep, control = 1 - o.decay;
  const Affine affine(weight, bias, C);
  const double *w = affine.w(), *b = affine.b();
  const i64 size = o.ecm == 1 ? C / o.groups : C;
  const A limit = A(o.clamp);
  std::vector<A> centre(C), scale(N * C), offset(N * C), inverse(N * C), slope(N * C), rest(N * C);
  std::vector<double> m(start + C, start + 2 * C), var(start + 2 * C, start + 3 * C), shifts(N * C);  // m - centre
  std::vector<double> along;  // what layer scaling takes off along its own output, and its divisor, a group
  if (o.ecm == 1) along.resize(2 * N * o.groups);
  for (i64 c = 0; c < C; c++) { centre[c] = A(start[c]); grad_weight[c] = grad_bias[c] = 0; }
  in_parallel(o.threads, [&](i64 thread, i64 threads) {
    const Cut cut(s, threads, 2 * sizeof(T));
    const Range mine = share(C, thread, threads, kChannels);
    for (i64 n = 0; n < N; n++) {  // the forward recurrence again
      const A *f = first + n * C, *q = within + n * C;
      A *sc = scale.data() + n * C, *of = offset.data() + n * C, *iv = inverse.data() + n * C;
      double* sh = shifts.data() + n * C;
#pragma omp simd
      for (i64 c = mine.begin; c < mine.end; c++) {
        const A i = A(1) / std::sqrt(A(var[c] + o.eps));
        const double d = f[c], shift = m[c] - double(centre[c]), gain = w ? i * w[c] : double(i);
        iv[c] = i; sh[c] = shift; sc[c] = A(gain); of[c] = A((b ? b[c] : 0.0) - shift * gain);
        var[c] = keep * var[c] + learn * q[c] + keep * learn * d * d;
        m[c] += learn * d;
      }
    }
    barrier();
    for (i64 n0 = 0; n0 < N; n0 += cut.block) {
      const i64 n1 = std::min(N, n0 + cut.block);
      // slope and rest hold the sums of g and g d until the recurrence turns them into coefficients
      share_pieces(cut, n0, n1, C, thread, threads, [&](i64 n, i64 c0, i64 c1) {
        const Row<A> r{centre.data(), &scale[n * C], &offset[n * C], nullptr, nullptr, nullptr};
        if (o.ecm == 2) sums<T, true, true>(x + n * plane, grad + n * plane, r, limit, c0, c1, s, &slope[n * C], &rest[n * C]);
        else sums<T, true, false>(x + n * plane, grad + n * plane, r, limit, c0, c1, s, &slope[n * C], &rest[n * C]);
      });
      barrier();
      if (o.ecm == 1) {
        const Range samples = share(n1 - n0, thread, threads, 1);
        for (i64 n = n0 + samples.begin; n < n0 + samples.end; n++)
          for (i64 k = 0; k < o.groups; k++) {
            double square = 0, dot = 0;
#pragma omp simd reduction(+ : square, dot)
            for (i64 c = k * size; c < (k + 1) * size; c++) {
              const i64 at = n * C + c;
              const double inv = inverse[at], d = first[at], y1 = d * inv, y2 = (within[at] + d * d) * inv * inv;
              const double ww = w ? w[c] : 1.0, bb = b ? b[c] : 0.0, G = slope[at], P = (rest[at] - shifts[at] * G) * inv;
              square += ww * ww * y2 + 2 * ww * bb * y1 + bb * bb;
              dot += ww * P + bb * G;
            }
            const double zeta = std::sqrt(square / size + o.ls_eps);
            along[2 * (n * o.groups + k)] = dot / (double(size) * D) / (zeta * zeta * zeta);
            along[2 * (n * o.groups + k) + 1] = zeta;
          }
        barrier();
      }
      for (i64 n = n0; n < n1; n++) {
        const A *f = first + n * C, *q = within + n * C;
        A *iv = &inverse[n * C], *sl = &slope[n * C], *re = &rest[n * C];
        const double* sh = &shifts[n * C];
        for (i64 begin = mine.begin; begin < mine.end;) {
          const i64 group = begin / size, end = std::min(mine.end, (group + 1) * size);
          const double own = o.ecm == 1 ? along[2 * (n * o.groups + group)] : 0, zeta = o.ecm == 1 ? along[2 * (n * o.groups + group) + 1] : 1;
          const double per_zeta = 1 / zeta, mean = 1.0 / D;
#pragma omp simd
          for (i64 c = begin; c < end; c++) {
            const double inv = iv[c], d = f[c], y1 = d * inv, y2 = (q[c] + d * d) * inv * inv, ww = w ? w[c] : 1.0, bb = b ? b[c] : 0.0;
            double G = sl[c] * mean, P = (re[c] * mean - sh[c] * G) * inv;
            G = G * per_zeta - (ww * y1 + bb) * own;
            P = P * per_zeta - (ww * y2 + bb * y1) * own;
            grad_weight[c] += P; grad_bias[c] += G;
            G *= ww; P *= ww;
            const double by_y = ww * ww * own + control * v[c], cross = -by_y * inv * inv, cu = control * u[c];
            sl[c] = A(cross); re[c] = A(-cross * sh[c] - cu - ww * bb * own * inv); iv[c] = A(inv * ww * per_zeta);
            u[c] = o.decay * u[c] + (G - control * v[c] * y1) * inv;
            const double decay = 1 - control * y2;
            v[c] = (decay > o.alpha_min || decay != decay ? decay : o.alpha_min) * v[c] + P;
          }
          begin = end;
        }
      }
      barrier();
      share_pieces(cut, n0, n1, C, thread, threads, [&](i64 n, i64 c0, i64 c1) {
        const Row<A> r{centre.data(), &scale[n * C], &offset[n * C], &slope[n * C], &rest[n * C], &inverse[n * C]};
        if (o.ecm == 2) map<T, true, true>(x + n * plane, grad + n * plane, out + n * plane, r, limit, c0, c1, s);
        else map<T, true, false>(x + n * plane, grad + n * plane, out + n * plane, r, limit, c0, c1, s);
      });
    }
    for (i64 c = mine.begin; c < mine.end; c++) { grad_weight[c] *= D; grad_bias[c] *= D; }
  });
}

// ------------------------------------------------------------------------------- one position a channel: (N, C)
// A sample at a time, its channels in vectors, the state in the first-level cache. Rows are padded to whole vectors.

// 1 / sqrt(x + eps) of `count` numbers. In float by Newton's method from a guess of the exponent's: within two units in the
// last place, in half the cycles of a square root and a division.
inline void inverse_roots(const double* x, double eps, double* out, i64 count) {
  for (i64 c = 0; c < count; c++) out[c] = 1 / std::sqrt(x[c] + eps);
}
inline void inverse_roots(const double* x, double eps, float* out, i64 count) {
  using V = Element<float>::V;
  typedef uint32_t U __attribute__((vector_size(64)));
  for (i64 c = 0; c < count; c++) out[c] = float(x[c] + eps);
  for (i64 c = 0; c < count; c += 16) {
    const V half = 0.5f * Element<float>::load(out + c);
    V r = (V)(0x5f3759dfu - ((U)Element<float>::load(out + c) >> 1));
    for (int k = 0; k < 3; k++) r *= 1.5f - half * r * r;
    Element<float>::store(out + c, r);
  }
}

template <typename A> struct Rows {  // of one thread's channels
  std::vector<A> inverse, y, z, g;
  explicit Rows(i64 count) : inverse(count + 16), y(count + 16), z(count + 16), g(count + 16) {}
};

// y and z = y weight + bias of one sample; moves m and var on.
template <typename T, typename A>
void next_sample(const T* x, const A* w, const A* b, double* m, double* var, double decay, double eps, i64 count, Rows<A>& rows) {
  using E = Element<T>;
  A *iv = rows.inverse.data(), *y = rows.y.data(), *z = rows.z.data();
  const double learn = 1 - decay, square = decay * learn;
  inverse_roots(var, eps, iv, count);
#pragma omp simd
  for (i64 c = 0; c < count; c++) {
    const double d = double(E::get(x[c])) - m[c];
    y[c] = A(d) * iv[c];
    var[c] = decay * var[c] + square * d * d;
    m[c] += learn * d;
  }
  if (w) for (i64 c = 0; c < count; c++) z[c] = y[c] * w[c] + b[c];
  else for (i64 c = 0; c < count; c++) z[c] = y[c];
}

template <typename T>
void forward_vectors(const T* x, T* out, const typename Element<T>::A* weight, const typename Element<T>::A* bias, double* m,
                     double* var, double* start, const Shape& s, const Settings& o) {
  using E = Element<T>; using A = typename E::A;
  const i64 N = s.N, C = s.C, size = C / o.groups;
  const A limit = A(o.clamp);
  for (i64 c = 0; c < C; c++) { start[c] = 0; start[C + c] = m[c]; start[2 * C + c] = var[c]; }
  in_parallel(o.ecm == 1 ? 1 : o.threads, [&](i64 thread, i64 threads) {
    const Range mine = share(C, thread, threads, kChannels);
    const i64 c0 = mine.begin, count = mine.end - c0;
    Rows<A> rows(count);
    A* z = rows.z.data();
    for (i64 n = 0; n < N; n++) {
      next_sample(x + n * C + c0, weight ? weight + c0 : nullptr, bias ? bias + c0 : nullptr, m + c0, var + c0, o.decay, o.eps, count, rows);
      if (o.ecm == 1)
        for (i64 begin = 0; begin < C; begin += size) {
          A square = 0;
#pragma omp simd reduction(+ : square)
          for (i64 c = begin; c < begin + size; c++) square += z[c] * z[c];
          const A per_zeta = A(1 / std::sqrt(double(square) / size + o.ls_eps));
          for (i64 c = begin; c < begin + size; c++) z[c] *= per_zeta;
        }
      if (o.ecm == 2) for (i64 c = 0; c < count; c++) { z[c] = z[c] > limit ? limit : z[c]; z[c] = z[c] < -limit ? -limit : z[c]; }
      for (i64 c = 0; c < count; c++) out[n * C + c0 + c] = E::put(z[c]);
    }
  });
}

template <typename T>
void backward_vectors(const T* grad, const T* x, T* out, const typename Element<T>::A* weight, const typename Element<T>::A* bias,
                      const double* start, double* u_, double* v_, double* grad_weight, double* grad_bias, double forward_decay,
                      const Shape& s, const Settings& o) {
  using E = Element<T>; using A = typename E::A;
  const i64 N = s.N, C = s.C, size = C / o.groups;
  const double keep = o.decay, control = 1 - keep, least = o.alpha_min;
  const A limit = A(o.clamp);
  std::vector<double> m(start + C, start + 2 * C), var(start + 2 * C, start + 3 * C);
  for (i64 c = 0; c < C; c++) grad_weight[c] = grad_bias[c] = 0;
  in_parallel(o.ecm == 1 ? 1 : o.threads, [&](i64 thread, i64 threads) {
    const Range mine = share(C, thread, threads, kChannels);
    const i64 c0 = mine.begin, count = mine.end - c0;
    const A *w = weight ? weight + c0 : nullptr, *b = bias ? bias + c0 : nullptr;
    double *u = u_ + c0, *v = v_ + c0, *gw = grad_weight + c0, *gb = grad_bias + c0;
    Rows<A> rows(count);
    A *y = rows.y.data(), *z = rows.z.data(), *iv = rows.inverse.data(), *g = rows.g.data();
    for (i64 n = 0; n < N; n++) {
      next_sample(x + n * C + c0, w, b, m.data() + c0, var.data() + c0, forward_decay, o.eps, count, rows);
      for (i64 c = 0; c < count; c++) g[c] = E::get(grad[n * C + c0 + c]);
      if (o.ecm == 2) for (i64 c = 0; c < count; c++) g[c] = z[c] > limit || z[c] < -limit ? A(0) : g[c];
      if (o.ecm == 1)
        for (i64 begin = 0; begin < C; begin += size) {
          A square = 0, dot = 0;
#pragma omp simd reduction(+ : square, dot)
          for (i64 c = begin; c < begin + size; c++) { square += z[c] * z[c]; dot += z[c] * g[c]; }
          const double zeta = std::sqrt(double(square) / size + o.ls_eps);
          const A per_zeta = A(1 / zeta), own = A(double(dot) / size / (zeta * zeta * zeta));
          for (i64 c = begin; c < begin + size; c++) g[c] = g[c] * per_zeta - z[c] * own;
        }
      for (i64 c = 0; c < count; c++) z[c] = w ? g[c] * w[c] : g[c];
#pragma omp simd
      for (i64 c = 0; c < count; c++) {
        const double yy = y[c], G = g[c], P = z[c], decay = 1 - control * (yy * yy), cv = control * v[c];
        gw[c] += G * yy;
        gb[c] += G;
        const double r = (P - cv * yy) * iv[c] - control * u[c];
        v[c] = (decay > least ? decay : least) * v[c] + P * yy;
        u[c] += r;
        g[c] = A(r);
      }
      for (i64 c = 0; c < count; c++) out[n * C + c0 + c] = E::put(g[c]);
    }
  });
}

// Runs `run` with the element type: 0 float, 1 double, 2 bfloat16, 3 half. Returns 1 for one that is not compiled in.
template <typename F> int with_type(int type, F run) {
  switch (type) {
    case 0: run(float()); return 0;
    case 1: run(double()); return 0;
    case 2: run(bf16()); return 0;
#ifdef ANYSIZE_HALF
    case 3: run(half()); return 0;
#endif
  }
  return 1;
}

// The state is float or double; the recurrences run on a copy in double.
std::vector<double> read_state(const void* p, i64 C, int is_double) {
  std::vector<double> v(C);
  for (i64 c = 0; c < C; c++) v[c] = is_double ? ((const double*)p)[c] : double(((const float*)p)[c]);
  return v;
}
void write_state(void* p, const std::vector<double>& v, i64 C, int is_double) {
  for (i64 c = 0; c < C; c++) {
    if (is_double) ((double*)p)[c] = v[c];
    else ((float*)p)[c] = float(v[c]);
  }
}
}  // namespace

extern "C" {

struct Call {
  int64_t N, C, D;
  double forward_decay, backward_decay, eps, ls_eps, clamp, alpha_min;
  int32_t type, state_is_double, channels_last, ecm, groups, threads;
};

// Whether the element type is compiled in.
int anysize_online_has(int type) { return with_type(type, [](auto) {}) == 0; }

int anysize_online_forward(const Call* call, const void* x, void* out, const void* weight, const void* bias, void* m, void* var,
                           double* start, void* planes) {
  const Shape s{call->N, call->C, call->D, call->channels_last != 0};
  const Settings o{call->forward_decay, call->eps, call->ls_eps, call->clamp, call->alpha_min, call->ecm, call->groups, call->threads};
  return with_type(call->type, [&](auto element) {
    using T = decltype(element); using A = typename Element<T>::A;
    std::vector<double> mm = read_state(m, s.C, call->state_is_double), vv = read_state(var, s.C, call->state_is_double);
    if (s.D == 1) forward_vectors<T>((const T*)x, (T*)out, (const A*)weight, (const A*)bias, mm.data(), vv.data(), start, s, o);
    else forward<T>((const T*)x, (T*)out, (const A*)weight, (const A*)bias, mm.data(), vv.data(), start, (A*)planes, (A*)planes + s.N * s.C, s, o);
    write_state(m, mm, s.C, call->state_is_double);
    write_state(var, vv, s.C, call->state_is_double);
  });
}

int anysize_online_backward(const Call* call, const void* grad, const void* x, void* out, const void* weight, const void* bias,
                            void* u, void* v, const double* start, const void* planes, double* gradients) {
  const Shape s{call->N, call->C, call->D, call->channels_last != 0};
  const Settings o{call->backward_decay, call->eps, call->ls_eps, call->clamp, call->alpha_min, call->ecm, call->groups, call->threads};
  return with_type(call->type, [&](auto element) {
    using T = decltype(element); using A = typename Element<T>::A;
    std::vector<double> uu = read_state(u, s.C, call->state_is_double), vv = read_state(v, s.C, call->state_is_double);
    if (s.D == 1) backward_vectors<T>((const T*)grad, (const T*)x, (T*)out, (const A*)weight, (const A*)bias, start, uu.data(), vv.data(),
                                      gradients, gradients + s.C, call->forward_decay, s, o);
    else backward<T>((const T*)grad, (const T*)x, (T*)out, (const A*)weight, (const A*)bias, start, (const A*)planes, (const A*)planes + s.N * s.C,
                     uu.data(), vv.data(), gradients, gradients + s.C, call->forward_decay, s, o);
    write_state(u, uu, s.C, call->state_is_double);
    write_state(v, vv, s.C, call->state_is_double);
  });
}

}  // extern "C"
