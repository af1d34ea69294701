// Access to a private data member of a class that has no accessor for it:
//
//   struct Tag {
//     using Type = int Class::*;
//     friend Type Member(Tag);
//   };
//   template struct PrivateMember<Tag, &Class::member_>;
//   object.*Member(Tag())
//
// [temp.spec]/6: the usual access checking rules do not apply to names in an explicit instantiation.
#pragma once

namespace symgrad {

template <typename Tag, typename Tag::Type member>
struct PrivateMember {
  friend typename Tag::Type Member(Tag) { return member; }
};

}  // namespace symgrad
