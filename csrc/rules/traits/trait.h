// What is known of an op beside its gradient, for those who can make use of it: how it is best computed, what it does
// besides computing, where its values end.
//
//   constexpr Trait kTraits[] = {
//       cheap("MyPackage>Scale"),
//       diverges("MyPackage>Log", [](const Op& o) { return !Positive(o.in(0)); }),  // Positive: see finite.h
//       sums_rows("MyPackage>OuterSum", {0, 1}),
//       effects("MyPackage>Lookup", kReads),
//   };
//   SYMGRAD_REGISTER_TRAITS(kTraits)
//
// An op without traits is differentiated as well: it is then taken to be expensive, finite, and, where it is stateful,
// to read and write what others may see.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "csrc/rules/op.h"

namespace symgrad {

// What a node does and sees besides what goes over its edges: a set of these.
enum Effect : uint8_t {
  kChecks = 1,  // refuses some of its inputs
  kReads = 2,   // what it computes hangs on state that others may change
  kWrites = 4,  // changes such state
  kShows = 8,   // tells the world: prints, summaries
};
using Effects = uint8_t;
inline constexpr Effects kNoEffects = 0;

struct Trait {
  enum Kind : uint8_t {
    kCheap,          // costs no more than to read its inputs and write its output
    kLight,          // costs not much more: some arithmetic for each element that it reads or writes
    kAliases,        // its outputs are the memory of its inputs, each of the input of that number
    kLinear,         // in its input 0
    kAdds,           // all its inputs up
    kSumsRows,       // f(a) + f(b) = f(a and b, one below the other), of those inputs
    kDiverges,       // of finite values may give infinite ones or NaN, or have a derivative that is
    kMixes,          // each of its values is made of many: a NaN of one is in all, and no rule can undo that
    kEffects,        // what it does, whatever TensorFlow says of its state
    kArray,          // its inputs flow_in and outputs flow... stand for an array of TensorFlow 1
    kGradientArray,  // makes an array for the gradients of another
    kNumKinds,
  };
  // Whether it holds for a node; null: for all. It may ask for inputs, their bounds and shapes, and attrs.
  using Condition = bool (*)(const Op& o);

  const char* op;
  Kind kind;
  Condition condition;
  unsigned bits;  // kSumsRows: the inputs; kEffects: the effects
};

constexpr Trait cheap(const char* op) { return {op, Trait::kCheap, nullptr, 0}; }
constexpr Trait light(const char* op) { return {op, Trait::kLight, nullptr, 0}; }
constexpr Trait aliases(const char* op) { return {op, Trait::kAliases, nullptr, 0}; }
constexpr Trait linear(const char* op) { return {op, Trait::kLinear, nullptr, 0}; }
constexpr Trait adds(const char* op) { return {op, Trait::kAdds, nullptr, 0}; }
constexpr Trait sums_rows(const char* op, std::initializer_list<int> inputs, Trait::Condition condition = nullptr) {
  unsigned bits = 0;
  for (const int i : inputs) bits |= 1u << i;
  return {op, Trait::kSumsRows, condition, bits};
}
constexpr Trait diverges(const char* op, Trait::Condition condition = nullptr) {
  return {op, Trait::kDiverges, condition, 0};
}
constexpr Trait mixes(const char* op) { return {op, Trait::kMixes, nullptr, 0}; }
constexpr Trait effects(const char* op, Effects effects) { return {op, Trait::kEffects, nullptr, effects}; }
constexpr Trait array(const char* op) { return {op, Trait::kArray, nullptr, 0}; }
constexpr Trait gradient_array(const char* op) { return {op, Trait::kGradientArray, nullptr, 0}; }

// Adds a table when the library is loaded. A second trait of a kind for an op is an error that every build reports.
struct TraitRegistration {
  TraitRegistration(const Trait* traits, int count, const char* file);
  template <int n>
  TraitRegistration(const Trait (&traits)[n], const char* file) : TraitRegistration(traits, n, file) {}
};
#define SYMGRAD_REGISTER_TRAITS(traits) \
  static const ::symgrad::TraitRegistration symgrad_trait_registration(traits, __FILE__);

// The trait of an op; null if it has none of that kind.
const Trait* FindTrait(std::string_view op, Trait::Kind kind);
inline bool HasTrait(std::string_view op, Trait::Kind kind) { return FindTrait(op, kind) != nullptr; }
// The same where the condition is met by the node.
const Trait* FindTrait(const Op& o, Trait::Kind kind);

// How many traits there are, and those that are there twice, as text.
int NumTraits();
std::string TraitConflicts();

}  // namespace symgrad
