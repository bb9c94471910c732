// What ham-coordinator does to a state directory besides serving from it. Each says in words what it did, or on stderr
// why it could not, and gives the exit status of the program: 0, or 1 also where it found damage.
#pragma once

#include <string>

namespace ham::server {

int RunResetAdmin(const std::string& state_dir);
// Prints the line that makes another host a worker.
int RunJoinCommand(const std::string& state_dir);
int RunBackup(const std::string& state_dir, const std::string& directory);
int RunRestore(const std::string& directory, const std::string& state_dir);
int RunCheck(const std::string& state_dir);

}  // namespace ham::server
