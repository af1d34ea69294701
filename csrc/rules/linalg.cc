// Linear algebra. Sources of the formulas:
//   Giles 2008, "An extended collection of matrix derivative results for forward and reverse mode AD"
//   Murray 2016, "Differentiation of the Cholesky decomposition", arXiv:1602.07527
//   Roberts & Roberts 2020, "QR and LQ decomposition matrix backpropagation algorithms", arXiv:2009.10071
//   Boeddeker et al. 2017, "On the computation of complex-valued gradients", arXiv:1701.00392
//   Townsend 2016, "Differentiating the singular value decomposition"; Wan & Zhang 2019, arXiv:1909.02659 (complex)
//   Golub & Pereyra 1973, "The differentiation of pseudo-inverses and nonlinear least squares problems"
//   de Hoog, Anderssen & Lukas 2011, "Differentiation of matrix functionals using triangular factorization" (LU)
//   Higham 2008, "Functions of Matrices", section 3.2
#include <algorithm>
#include <string>

#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// ---- Einsum ----

constexpr char kDots[] = "...";

bool Has(const std::string& subscripts, const std::string& what) { return subscripts.find(what) != std::string::npos; }

int NumLabels(const std::string& subscripts) {
  return static_cast<int>(subscripts.size()) - (Has(subscripts, kDots) ? 3 : 0);
}

std::string Replace(std::string subscripts, const std::string& what, const std::string& by) {
  const size_t at = subscripts.find(what);
  return at == std::string::npos ? subscripts : subscripts.replace(at, what.size(), by);
}

V Einsum(const Values& operands, const std::string& equation) {
  return op("Einsum", list(operands), Attr{"equation", equation});
}

// The cotangent of the operand x: the equation `from` of the cotangent and the other operand, if there is one, turned
// to x's subscripts. x was summed over a label that nothing else has, so its cotangent is repeated there.
V EinsumOperand(const Values& operands, const std::string& from, const V& x, const std::string& subscripts) {
  std::string shared, lone;
  bool diagonal = Has(from, ",") && Has(subscripts, kDots);  // Nor does a broadcast dimension have x's size yet.
  for (const char label : subscripts) {
    if (label == '.' || Has(from, {label})) {
      shared += label;
    } else if (Has(lone, {label})) {
      diagonal = true;
    } else {
      lone += label;
    }
  }
  if (diagonal && !Has(from, ",")) shared = from;
  V dx = from == shared ? operands[0] : Einsum(operands, from + "->" + shared);
  if (lone.empty()) return dx;

  // The axis of a label, counted from the end where an ellipsis precedes it.
  const int dots = static_cast<int>(std::min(subscripts.find(kDots), subscripts.size()));
  auto axis = [&](char label) {
    const int at = static_cast<int>(subscripts.find(label));
    return at < dots ? at : at - static_cast<int>(subscripts.size());
  };
  if (diagonal) {
    Values sizes;
    for (const char label : lone) sizes.push_back(dim(x, axis(label)));
    const V ones = fill(pack(sizes), constant(1, x.dtype()));
    return Einsum({dx, ones}, shared + "," + lone + "->" + subscripts);
  }
  V expanded = dx;  // Outer axes first as counted from either end.
  for (const char label : lone) {
    if (axis(label) >= 0) expanded = expand_dims(expanded, axis(label));
  }
  for (auto label = lone.rbegin(); label != lone.rend(); ++label) {
    if (axis(*label) < 0) expanded = expand_dims(expanded, axis(*label));
  }
  return broadcast_to(expanded, shape(x));
}

// Gives the dimensions of the ellipses labels of their own where it is known which operand has which: a dimension that
// only one operand has is then contracted by Einsum itself, not multiplied out and summed.
void NameBroadcastDims(const V& x, const V& y, std::string* xs, std::string* ys, std::string* zs) {
  if ((Has(*xs, kDots) && x.rank() < 0) || (Has(*ys, kDots) && y.rank() < 0)) return;
  const int nx = Has(*xs, kDots) ? x.rank() - NumLabels(*xs) : 0, ny = Has(*ys, kDots) ? y.rank() - NumLabels(*ys) : 0;
  const int x_end = static_cast<int>(xs->find(kDots)) + nx, y_end = static_cast<int>(ys->find(kDots)) + ny;
  for (int i = 1; i <= std::min(nx, ny); ++i) {
    if (x.dim(x_end - i) < 0 || x.dim(x_end - i) != y.dim(y_end - i)) return;
  }
  std::string labels;
  for (const char label : std::string("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")) {
    if (!Has(*xs + *ys + *zs, {label})) labels += label;
  }
  const size_t n = std::max({nx, ny, 0});
  if (n > labels.size()) return;
  labels.resize(n);
  *xs = Replace(*xs, kDots, labels.substr(n - std::max(nx, 0)));
  *ys = Replace(*ys, kDots, labels.substr(n - std::max(ny, 0)));
  *zs = Replace(*zs, kDots, labels);
}

// Sums what the ellipsis of x was broadcast to.
V SumBroadcastDims(const V& dx, const V& x, const std::string& xs, const V& y, const std::string& ys) {
  if (!Has(xs, kDots)) return dx;
  if (xs.find(kDots) == 0) return sum_to(dx, x);
  auto dims = [](const V& v, const std::string& subscripts) {
    const int64_t begin = static_cast<int64_t>(subscripts.find(kDots));
    return part(shape(v), begin, begin + rank(v) - NumLabels(subscripts));
  };
  const V axes = op("BroadcastGradientArgs", dims(x, xs), dims(y, ys));
  return reshape(sum(dx, axes + static_cast<int>(xs.find(kDots))), shape(x));
}

Grads EinsumGrad(const Op& o) {
  const std::string equation = o.text("equation");
  const size_t arrow = equation.find("->"), comma = equation.find(',');
  if (arrow == std::string::npos) return o.unsupported("its equation has no '->'; write the output's subscripts");
  std::string xs = equation.substr(0, std::min(arrow, comma)), zs = equation.substr(arrow + 2);
  const Values operands = INS(inputs);
  const V& x = operands[0];
  const V dy = o.dy();
  if (o.num_in() == 1) return {EinsumOperand({dy}, zs, x, Has(zs, kDots) ? xs : Replace(xs, kDots, ""))};
  if (o.num_in() != 2 || comma == std::string::npos)
    return o.unsupported("only one or two operands are differentiable");

  std::string ys = equation.substr(comma + 1, arrow - comma - 1);
  const V& y = operands[1];
  if (!Has(zs, kDots)) {  // Then the ellipses stand for no dimension.
    xs = Replace(xs, kDots, "");
    ys = Replace(ys, kDots, "");
  } else {
    NameBroadcastDims(x, y, &xs, &ys, &zs);
    if (Has(zs, kDots) && !Has(xs, kDots)) xs = kDots + xs;
    if (Has(zs, kDots) && !Has(ys, kDots)) ys = kDots + ys;
  }
  return GRADS(SumBroadcastDims(EinsumOperand({dy, conj(y)}, zs + "," + ys, x, xs), x, xs, y, ys),
               SumBroadcastDims(EinsumOperand({dy, conj(x)}, zs + "," + xs, y, ys), y, ys, x, xs));
}

// ---- Parts of matrices ----

// x[..., begin:end] and x[..., begin:end, :]; without an end, to the last.
V Columns(const V& x, const V& begin, const V& end = none) {
  return op("StridedSlice", x, pack({0, begin}), pack({0, end ? end : begin}), ints({1, 1}), Attr{"ellipsis_mask", 1},
            Attr{"end_mask", end ? 0 : 2});
}

V FirstRows(const V& x, const V& end) {
  return op("StridedSlice", x, ints({0, 0, 0}), pack({0, end, 0}), ints({1, 1, 1}), Attr{"ellipsis_mask", 1},
            Attr{"end_mask", 4});
}

V LowerTriangle(const V& x) { return band_part(x, -1, 0); }
V UpperTriangle(const V& x) { return band_part(x, 0, -1); }
V HalfDiagonal(const V& triangle) { return triangle - 0.5 * band_part(triangle, 0, 0); }
V Hermitian(const V& triangle) { return triangle + adjoint(triangle); }

V ScaleColumns(const V& x, const V& by) { return x * expand_dims(by, -2); }
V ScaleRows(const V& x, const V& by) { return expand_dims(by, -1) * x; }

// A number for each matrix of a batch, so that it multiplies the matrix.
V PerMatrix(const V& x) { return reshape(x, concat({shape(x), ints({1, 1})}, 0)); }

V SolveTriangular(const V& a, const V& b, bool lower, bool adjoint) {
  return op("MatrixTriangularSolve", a, b, Attr{"lower", lower}, Attr{"adjoint", adjoint});
}

// All of x and y, as real vectors.
V InnerProduct(const V& x, const V& y) { return total(real(conj(x) * y)); }

// ---- Determinants ----

// d log|det a| = Re tr(a^-1 da) and, as sign = exp(i t), d sign = i sign dt with dt = Im tr(a^-1 da).
Grads LogMatrixDeterminantGrad(const Op& o) {
  const V sign = o.out(0);
  const V d = IsComplex(sign.dtype()) ? complex(real(DY(log_abs_determinant)), imag(o.dy(0) * conj(sign)))
                                      : DY(log_abs_determinant);
  return {PerMatrix(d) * op("MatrixInverse", IN(input), Attr{"adjoint", true})};
}

// ---- Systems of equations ----

// x = op(a)^-1 b, op being the identity or the adjoint: db = op(a)^-H dx, and da = -db x^H or the adjoint of that.
V SolvedMatrix(const V& x, const V& db, bool adjoint) {
  return adjoint ? -matmul(x, db, false, true) : -matmul(db, x, false, true);
}

Grads MatrixSolveGrad(const Op& o) {
  const bool adjoint = o.flag("adjoint");
  const V db = op("MatrixSolve", IN(matrix), o.dy(), Attr{"adjoint", !adjoint});
  return GRADS(SolvedMatrix(o.out(), db, adjoint), db);
}

Grads MatrixTriangularSolveGrad(const Op& o) {
  const bool adjoint = o.flag("adjoint"), lower = o.flag("lower");
  const V db = SolveTriangular(IN(matrix), o.dy(), lower, !adjoint);
  const auto triangle = lower ? LowerTriangle : UpperTriangle;
  return GRADS(sum_to(triangle(SolvedMatrix(o.out(), db, adjoint)), IN(matrix)), sum_to(db, IN(rhs)));
}

Grads BandedTriangularSolveGrad(const Op& o) {
  const bool adjoint = o.flag("adjoint"), lower = o.flag("lower");
  const V a = IN(matrix);
  const V db = op("BandedTriangularSolve", a, o.dy(), Attr{"lower", lower}, Attr{"adjoint", !adjoint});
  auto da = [&] {
    const V full = SolvedMatrix(o.out(), db, adjoint), bands = dim(a, -2);
    const V band = op("MatrixDiagPartV3", full, lower ? pack({1 - bands, 0}) : pack({0, bands - 1}), 0,
                      Attr{"align", "LEFT_RIGHT"});
    // Of a single band MatrixDiagPart drops the dimension.
    const V batch = head(shape(full), rank(full) - 2);
    return sum_to(reshape(band, concat({batch, pack({bands, dim(a, -1)})}, 0)), a);
  };
  return GRADS(da(), sum_to(db, IN(rhs)));
}

// Least squares: x = (a^H a + l)^-1 a^H b where a has more rows than columns, a^H (a a^H + l)^-1 b where it has less.
V SolveRegularized(const V& gram, const V& l, const V& b) {
  return op("MatrixSolve", gram + l * eye(dim(gram, -1), gram.dtype()), b);
}

Grads DeepLeastSquares(const Op& o, const V& l) {
  const V a = IN(matrix), b = IN(rhs), x = o.out();
  const V z = SolveRegularized(matmul(a, a, true), l, o.dy()), db = matmul(a, z);
  return {matmul(b - matmul(a, x), z, false, true) - matmul(db, x, false, true), db, -InnerProduct(z, x)};
}

Grads WideLeastSquares(const Op& o, const V& l) {
  const V a = IN(matrix), b = IN(rhs), x = o.out(), gram = matmul(a, a, false, true);
  const V t = SolveRegularized(gram, l, b), db = SolveRegularized(gram, l, matmul(a, o.dy()));
  return {matmul(t, o.dy() - matmul(a, db, true), false, true) - matmul(db, x, false, true), db, -InnerProduct(db, t)};
}

Grads MatrixSolveLsGrad(const Op& o) {
  const V a = IN(matrix);
  const bool fast = o.flag("fast");  // The other way takes no notice of the regularizer.
  const V l = fast ? cast(IN(l2_regularizer), a.dtype()) : none;
  Grads grads;
  if (a.dim(-2) >= 0 && a.dim(-1) >= 0) {
    grads = a.dim(-2) >= a.dim(-1) ? DeepLeastSquares(o, l) : WideLeastSquares(o, l);
  } else {  // The one that turns out not to hold solves some regular system instead.
    const V deep = dim(a, -2) >= dim(a, -1), one = cast(deep, a.dtype());
    const Grads d = DeepLeastSquares(o, l + (1 - one)), w = WideLeastSquares(o, l + one);
    for (int i = 0; i < 3; ++i) grads.push_back(select(deep, d[i], w[i]));
  }
  grads[2] = fast ? cast(grads[2], DType::kDouble) : none;
  return grads;
}

// ---- Tridiagonal matrices: of the diagonal above the last element is not used, of that below the first ----

// The axis is negative here, and counted from the front in the graph (see Roll in math.cc).
V Roll(const V& x, int by, int axis) { return op("Roll", x, by, rank(x) + axis); }

// The three diagonals of g x^H, each [..., m].
Values TridiagonalPart(const V& g, const V& x) {
  const V n = dim(x, -2), i = range(0, n), c = conj(x);
  return {sum(g * Roll(c, -1, -2), -1) * cast(i < n - 1, g.dtype()), sum(g * c, -1),
          sum(g * Roll(c, 1, -2), -1) * cast(i > 0, g.dtype())};
}

Grads TridiagonalMatMulGrad(const Op& o) {
  const V above = conj(IN(superdiag)), main = conj(IN(maindiag)), below = conj(IN(subdiag)), dy = o.dy();
  Grads grads = TridiagonalPart(dy, IN(rhs));
  for (V& g : grads) g = expand_dims(g, -2);
  grads.push_back(op("TridiagonalMatMul", Roll(below, -1, -1), main, Roll(above, 1, -1), dy));
  return grads;
}

Grads TridiagonalSolveGrad(const Op& o) {
  const Values d = unpack(conj(IN(diagonals)), 3, -2);
  const V transposed = pack({Roll(d[2], -1, -1), d[1], Roll(d[0], 1, -1)}, -2);
  const V db = o.like("TridiagonalSolve", transposed, o.dy());
  return GRADS(-pack(TridiagonalPart(db, o.out()), -2), db);
}

// ---- Decompositions ----

// l l^H = a: da = l^-H P(l^H dl) l^-1, made Hermitian, P being the lower triangle with half the diagonal.
Grads CholeskyGrad(const Op& o) {
  const V l = o.out();
  const V p = HalfDiagonal(LowerTriangle(matmul(l, o.dy(), true)));
  const V da = SolveTriangular(l, adjoint(SolveTriangular(l, p, true, true)), true, true);
  return {0.5 * Hermitian(da)};
}

// The rule of the rule above, for the op that TensorFlow has for it: y = S(w), w = l^-H P(l^H dl) l^-1 and S the
// Hermitian part. With s = S(dy) and a = l^-1 s l^-H, P(a) is the cotangent of l^H dl.
Grads CholeskyGradGrad(const Op& o) {
  const V l = IN(l), dl = IN(grad), s = 0.5 * Hermitian(o.dy());
  const auto solve = [&l](const V& x, bool adjoint) { return SolveTriangular(l, x, true, adjoint); };
  const V p = HalfDiagonal(LowerTriangle(solve(adjoint(solve(s, false)), false)));                  // a is Hermitian
  const V w = solve(adjoint(solve(HalfDiagonal(LowerTriangle(matmul(l, dl, true))), true)), true);  // w^H
  const V by_inverse = adjoint(solve(matmul(s, Hermitian(w)), false));
  return {LowerTriangle(matmul(LowerTriangle(dl), p, false, true) - by_inverse), matmul(l, p)};
}

// An orthonormal basis and its cotangent.
struct Basis {
  V q, dq;
};

// The first k columns of a basis. The rest, q2, is any basis of their complement and moves with them:
//   dq2 = -q1 dq1^H q2,
// up to a rotation in itself on which nothing that has a derivative depends. So its cotangent is one of the first
// columns.
Basis Leading(const Basis& full, const V& k) {
  const auto n = known(k);
  if (n && full.q.dim(-1) == (*n)[0]) return full;
  const V q1 = Columns(full.q, 0, k), q2 = Columns(full.q, k);
  return {q1, Columns(full.dq, 0, k) - matmul(q2, matmul(Columns(full.dq, k), q1, true))};
}

// p a = l u, l with ones on the diagonal, both in one matrix: p da = l^-H F u^-H, F being the strictly lower triangle
// of l^H dl and the upper one of du u^H.
Grads LuGrad(const Op& o) {
  const V lu = o.out(0), dlu = o.dy(0), u = UpperTriangle(lu);
  const V l = op("MatrixSetDiag", LowerTriangle(lu), ones_like(diag_part(lu)));
  auto below = [](const V& x) { return x - UpperTriangle(x); };
  const V f = below(matmul(l, below(dlu), true)) + UpperTriangle(matmul(UpperTriangle(dlu), u, false, true));
  const V da = adjoint(SolveTriangular(u, adjoint(SolveTriangular(l, f, true, true)), false, false));
  const V p = one_hot(OUT(p), dim(lu, -1), lu.dtype());
  return {matmul(p, da, true)};
}

// With a = [x, y] and r = [u, v], x and u square or deep: x = q u and v = q^H y.
//   dx = (dq + q H) u^-H, where H is the Hermitian matrix whose upper triangle is that of du u^H - q^H dq.
Grads QrGrad(const Op& o) {
  const V a = IN(input), n = dim(a, -1), k = minimum(dim(a, -2), n);
  auto [q, dq] = Leading({o.out(0), o.dy(0)}, k);
  V r = OUT(r), dr = DY(r), dy;
  if (o.flag("full_matrices") && !same_shape(q, o.out(0))) {
    r = FirstRows(r, k);
    dr = FirstRows(dr, k);
  }
  if (!(known(k) && known(k) == known(n))) {
    const V dv = Columns(dr, k);
    dq = dq + matmul(Columns(a, k), dv, false, true);
    dy = matmul(q, dv);
    r = Columns(r, 0, k);
    dr = Columns(dr, 0, k);
  }
  const V h = Hermitian(HalfDiagonal(UpperTriangle(matmul(dr, r, false, true) - matmul(q, dq, true))));
  const V dx = adjoint(SolveTriangular(r, adjoint(dq + matmul(q, h)), false, false));
  return {dy ? concat({dx, dy}, -1) : dx};
}

// 1 / x, and zero where x is nothing but rounding beside `size`: where eigenvalues or singular values coincide, no
// eigenvector has a derivative, but what does not depend on the choice of eigenvectors has.
V SafeReciprocal(const V& x, const V& size) {
  const bool is_double = RealPart(x.dtype()) == DType::kDouble;
  const V nothing = abs(x) <= (is_double ? 4e-15 : 2e-6) * size;
  return select(nothing, 0, reciprocal(select(nothing, 1, x)));
}
V Largest(const V& x) { return op("Max", abs(x), -1, Attr{"keep_dims", true}); }

// 1 / (e_j - e_i), zero on the diagonal.
V InverseGaps(const V& e) {
  return SafeReciprocal(expand_dims(e, -2) - expand_dims(e, -1), expand_dims(Largest(e), -1));
}

// a v = v diag(e), |v_i| = 1 (Boeddeker et al., equation 4.77).
Grads EigGrad(const Op& o) {
  const bool compute_v = o.flag("compute_v");
  const V eig = compute_v ? o.out(0) : op("Eig", IN(input), Attr{"Tout", o.type("Tout")}), e = eig.out(0),
          v = eig.out(1);
  V d = o.has_dy(0) ? diag(o.dy(0)) : none;
  if (compute_v && o.has_dy(1)) {
    const V p = matmul(v, DY(v), true), norm = cast(real(diag_part(p)), p.dtype());
    d = d + conj(InverseGaps(e)) * (p - ScaleColumns(matmul(v, v, true), norm));
  }
  const V da = op("MatrixSolve", v, matmul(d, v, false, true), Attr{"adjoint", true});
  return {IsComplex(IN(input).dtype()) ? da : real(da)};
}

Grads SelfAdjointEigGrad(const Op& o) {
  const bool compute_v = o.flag("compute_v");
  const V eig = compute_v ? o.out(0) : op("SelfAdjointEigV2", IN(input)), e = eig.out(0), v = eig.out(1);
  V d = o.has_dy(0) ? diag(o.dy(0)) : none;
  if (compute_v && o.has_dy(1)) d = d + InverseGaps(e) * matmul(v, DY(v), true);
  const V da = matmul(v, matmul(d, v, false, true));
  return {HalfDiagonal(LowerTriangle(Hermitian(da)))};  // The forward op reads the lower triangle.
}

// a = u diag(s) v^H with u and v thin; what a full u or v adds is turned into a cotangent of the thin part.
//   da = (u C + (1 - u u^H) du s^-1) v^H + u s^-1 dv^H (1 - v v^H),
//   C  = ds + F o (U - U^H) s + s F o (V - V^H),  U = u^H du,  V = v^H dv,  F_ij = 1 / (s_j^2 - s_i^2),
// and, for complex a, the phase that u and v share: C - i Im(diag V) s^-1.
Grads SvdGrad(const Op& o) {
  const V a = IN(input), m = dim(a, -2), n = dim(a, -1), k = minimum(m, n);
  const bool compute_uv = o.flag("compute_uv"), has_uv = compute_uv && (o.has_dy(1) || o.has_dy(2));
  const bool is_complex = IsComplex(a.dtype());
  const V svd = compute_uv ? o.out(0) : op("Svd", a);
  V ds = o.dy(0);
  if (is_complex) ds = cast(real(ds), ds.dtype());
  if (!has_uv) {
    const bool full = compute_uv && o.flag("full_matrices");
    const V u = full ? Columns(svd.out(1), 0, k) : svd.out(1), v = full ? Columns(svd.out(2), 0, k) : svd.out(2);
    return {matmul(ScaleColumns(u, ds), v, false, true)};
  }
  const V& s = svd;
  const V f = InverseGaps(s * s), inverse = SafeReciprocal(s, Largest(s));
  const auto [u, du] = Leading({OUT(u), DY(u)}, k);
  const auto [v, dv] = Leading({OUT(v), DY(v)}, k);
  const V pu = matmul(u, du, true), pv = matmul(v, dv, true);
  if (is_complex) ds = ds - complex(zeros_like(real(s)), imag(diag_part(pv))) * inverse;
  const V c = diag(ds) + ScaleColumns(f * (pu - adjoint(pu)), s) + ScaleRows(f * (pv - adjoint(pv)), s);

  // Nothing is left of 1 - u u^H where u is square.
  auto is_square = [&](const V& rows) { return known(rows) && known(k) && *known(rows) == *known(k); };
  V left = matmul(u, c);
  if (!is_square(m)) left = left + ScaleColumns(du - matmul(u, pu), inverse);
  V da = matmul(left, v, false, true);
  if (!is_square(n)) da = da + matmul(ScaleColumns(u, inverse), dv - matmul(v, pv), false, true);
  return {da};
}

// ---- Functions of a matrix ----

// f([[a, e], [0, a]]) has f(a) on its diagonal and the derivative of f at a in direction e above it; the adjoint of the
// derivative at a is the derivative at a^H (Higham, theorem 3.6 and section 3.2).
Grads MatrixFunctionGrad(const Op& o, const char* function) {
  const V a = adjoint(IN(input)), n = dim(a, -1);
  const V block = concat({concat({a, o.dy()}, -1), concat({zeros_like(a), a}, -1)}, -2);
  return {Columns(FirstRows(op(function, block), n), n)};
}

// clang-format off
constexpr Rule kRules[] = {
    {"Einsum", EinsumGrad},

    RULE(MatrixInverse, const bool adjoint = o.flag("adjoint");
         return {-matmul(y, matmul(dy, y, adjoint, !adjoint), !adjoint)};)
    UNARY(MatrixDeterminant, PerMatrix(dy * conj(y)) * op("MatrixInverse", x, Attr{"adjoint", true}))
    {"LogMatrixDeterminant", LogMatrixDeterminantGrad},

    {"MatrixSolve", MatrixSolveGrad},
    {"MatrixTriangularSolve", MatrixTriangularSolveGrad},
    {"BandedTriangularSolve", BandedTriangularSolveGrad},
    {"MatrixSolveLs", MatrixSolveLsGrad},
    {"TridiagonalMatMul", TridiagonalMatMulGrad},
    {"TridiagonalSolve", TridiagonalSolveGrad},

    {"Cholesky", CholeskyGrad},
    {"CholeskyGrad", CholeskyGradGrad},
    {"Lu", LuGrad},
    {"Qr", QrGrad},
    {"Eig", EigGrad},
    {"SelfAdjointEigV2", SelfAdjointEigGrad},
    {"Svd", SvdGrad},

    RULE(MatrixSquareRoot, return MatrixFunctionGrad(o, "MatrixSquareRoot");)
    RULE(MatrixLogarithm, return MatrixFunctionGrad(o, "MatrixLogarithm");)
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
