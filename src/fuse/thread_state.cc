#include "fuse/thread_state.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

namespace plumeria::fuse {

ProcFile::ProcFile(std::uint32_t thread, const char* name)
    : fd_(::open(absl::StrCat("/proc/", thread, "/", name).c_str(), O_RDONLY | O_CLOEXEC)) {}

ProcFile::~ProcFile() {
  if (fd_ >= 0) ::close(fd_);
}

std::string_view ProcFile::read() {
  if (fd_ < 0) return {};
  const ssize_t length = ::pread(fd_, buffer_.data(), buffer_.size(), 0);
  return length <= 0 ? std::string_view{}
                     : std::string_view(buffer_.data(), static_cast<std::size_t>(length));
}

// "12 (notify) D 1 …": the state stands behind the name, which may hold anything.
char state_in(std::string_view stat) {
  const std::size_t at = stat.rfind(')');
  return at == std::string_view::npos || at + 2 >= stat.size() ? '\0' : stat[at + 2];
}

std::vector<std::uint32_t> groups_of(std::uint32_t thread) {
  constexpr std::string_view head = "\nGroups:";
  const std::string text(ProcFile(thread, "status").read());
  std::vector<std::uint32_t> groups;
  std::size_t at = text.find(head);
  if (at == std::string::npos) return groups;
  for (const char* next = text.c_str() + at + head.size();;) {
    char* end = nullptr;
    while (*next == ' ' || *next == '\t') ++next;
    const unsigned long group = ::strtoul(next, &end, 10);
    if (*next == '\n' || end == next) return groups;
    groups.push_back(static_cast<std::uint32_t>(group));
    next = end;
  }
}

bool has_left_getdents(std::uint32_t thread) {
  constexpr long getdents = 78, getdents64 = 217;
  const std::string text(ProcFile(thread, "syscall").read());
  if (text.empty()) return true;
  if (text[0] == 'r') return false;  // "running"
  const long call = ::strtol(text.c_str(), nullptr, 10);
  return call != getdents && call != getdents64;
}

Taken has_taken_reply(std::uint32_t thread) {
  const char state = state_in(ProcFile(thread, "stat").read());
  if (state != 'R' && state != 'D')
    return Taken::yes;  // It waits for something else, or has ended.
  // Of a thread that runs on another processor there is nothing to see.
  ProcFile stack(thread, "stack");
  const std::string_view where = stack.read();
  if (where.find("truncate_pagecache") != std::string_view::npos) return Taken::cuts;
  if (state == 'D') return Taken::yes;
  if (where.empty()) return Taken::soon;
  return where.find("fuse_") != std::string_view::npos ? Taken::no : Taken::yes;
}

}  // namespace plumeria::fuse
