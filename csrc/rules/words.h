// The vocabulary of rules. Everything folds when shapes or values are known.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "csrc/rules/op.h"

namespace symgrad {

// Elementwise, with broadcasting.
V operator+(const V& a, const V& b);
V operator-(const V& a, const V& b);
V operator*(const V& a, const V& b);
V operator/(const V& a, const V& b);  // RealDiv; on integers FloorDiv
V operator%(const V& a, const V& b);  // FloorMod
V operator-(const V& a);
V operator<(const V& a, const V& b);
V operator>(const V& a, const V& b);
V operator<=(const V& a, const V& b);
V operator>=(const V& a, const V& b);
V logical_and(const V& a, const V& b);
V logical_or(const V& a, const V& b);
V logical_not(const V& a);
// A value is a truth value only when building (`none` or not), never by what it will be.
V operator&&(const V& a, const V& b) = delete;
V operator||(const V& a, const V& b) = delete;
V equal(const V& a, const V& b);
V not_equal(const V& a, const V& b);
V maximum(const V& a, const V& b);
V minimum(const V& a, const V& b);
V div_no_nan(const V& a, const V& b);  // 0 where b is 0
V mul_no_nan(const V& a, const V& b);  // 0 where b is 0
// A cotangent times a partial, and by a divisor: 0 where dy is 0, though the partial be infinite or NaN.
V times(const V& dy, const V& partial);
V over(const V& dy, const V& divisor);
V pow(const V& a, const V& b);
V select(const V& condition, const V& a, const V& b);  // SelectV2: broadcasts
V conj(const V& x);                                    // x itself where it is real
V real(const V& x);
V imag(const V& x);
V complex(const V& re, const V& im);
V abs(const V& x);
V sign(const V& x);
V square(const V& x);
V sqrt(const V& x);
V rsqrt(const V& x);
V reciprocal(const V& x);
V exp(const V& x);
V log(const V& x);
V log1p(const V& x);
V sin(const V& x);
V cos(const V& x);
V sinh(const V& x);
V cosh(const V& x);
V tanh(const V& x);
V sigmoid(const V& x);
V digamma(const V& x);
V lgamma(const V& x);

// Shapes. Integers are int32 unless said otherwise.
V shape(const V& x, DType dtype = DType::kInt32);
V rank(const V& x);
V size(const V& x, DType dtype = DType::kInt32);
V range(const V& begin, const V& end);
V prod(const V& vector);  // of all elements
V reshape(const V& x, const V& shape);
V reshape_like(const V& x, const V& like);
V flatten(const V& x);                  // to a vector
V align(const V& x, const V& rank);     // with ones behind, to broadcast against the first dimensions of that many
V dim(const V& x, const V& axis);       // the size of a dimension; a negative axis counts from the end
V head(const V& vector, const V& end);  // vector[:end], vector[begin:] and vector[begin:end]
V tail(const V& vector, const V& begin);
V part(const V& vector, const V& begin, const V& end);
V broadcast_to(const V& x, const V& shape);
V broadcast_like(const V& x, const V& like);
V expand_dims(const V& x, const V& axis);
V squeeze(const V& x, std::vector<int64_t> axes);
V transpose(const V& x, const V& permutation);
V swap_last_two(const V& x);  // a matrix transposed, in a batch
V adjoint(const V& x);        // swap_last_two and conj
V concat(Values values, const V& axis);
V pack(Values values, int axis = 0);
// The parts of x: of an equal number along an axis, of given sizes, or without the axis.
Values split(const V& x, int parts, const V& axis);
Values split(const V& x, const V& sizes, int parts, const V& axis);
Values unpack(const V& x, int parts, int axis = 0);
V slice(const V& x, const V& begin, const V& size);
V pad(const V& x, const V& paddings);
V gather(const V& params, const V& indices, const V& axis = V(0));
V gather_nd(const V& params, const V& indices);
V scatter_nd(const V& indices, const V& updates, const V& shape);
V one_hot(const V& indices, const V& depth, DType dtype, int axis = -1);
V where(const V& condition);  // indices [n, rank] of the true elements
V invert_permutation(const V& permutation);
V keep(const V& condition, const V& x);  // x, but 0 where the condition, of x's first dimensions, does not hold

// Values.
V cast(const V& x, DType dtype);  // x itself where it has that dtype
V cast_like(const V& x, const V& like);
V single(const V& x);  // in single precision where its own is below that: half can't count beyond 2048, bfloat16 256
V zeros_like(const V& x);
V ones_like(const V& x);
V zeros(const V& shape, DType dtype);
V fill(const V& shape, const V& value);
V constant(const V& literal, DType dtype);  // a literal of that dtype

// Reductions and products.
V sum(const V& x, const V& axes, bool keep_dims = false);
V mean(const V& x, const V& axes, bool keep_dims = false);
V total(const V& x);                                      // of all elements
V segment_sum(const V& x, const V& ids, const V& count);  // of rows; those of a negative id are left out
V einsum(const char* equation, const V& a, const V& b);
V matmul(const V& a, const V& b, bool adjoint_a = false,
         bool adjoint_b = false);                       // batched, broadcasts, adjoints conjugate
V band_part(const V& x, int64_t lower, int64_t upper);  // -1: all
V diag_part(const V& x);                                // of the last two dimensions
V diag(const V& x);                                     // a matrix of the last dimension
V eye(const V& n, DType dtype);

// g has the shape that x was broadcast to: sums what broadcasting added.
V sum_to(const V& g, const V& x);
// The same for input i of an op that broadcasts its inputs 0 and 1 against each other: what every BINARY rule ends
// with.
V sum_to_input(const Op& o, int i, const V& g);

// Sparse rows: the cotangent of a tensor of `dense_shape` that is `values` in rows `indices` (a vector; repeated ones
// add up) of dimension 0 and zero elsewhere. Stays sparse through sums; the engine makes it dense where somebody
// needs that.
V rows(const V& indices, const V& values, const V& dense_shape);

// What is known when building: the elements of a small integer tensor, or of a literal.
std::optional<std::vector<int64_t>> known(const V& x);
// Whether the elements of a vector, or the rows of a matrix of integers, are sure to be different from each other.
bool distinct(const V& indices);
// Whether a and b are sure to have the same shape at run time.
bool same_shape(const V& a, const V& b);
// The outputs of a node, from 0.
Values outputs(const V& node, int count);

}  // namespace symgrad
