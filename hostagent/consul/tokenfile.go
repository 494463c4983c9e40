// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// exposedTokenFile tells in a sentence that every user of this host can read or change the token file at path, and what
// mends it; "" where that is not so, or cannot be told because the file cannot be read.
func exposedTokenFile(path string) string {
	if path == "" || isTokenShaped(path) {
		return ""
	}
	target, err := filepath.EvalSymlinks(path) // secrets are often links that are swapped
	if err == nil {
		target, err = filepath.Abs(target)
	}
	if err != nil {
		return ""
	}
	info, err := os.Stat(target)
	if err != nil || info.Mode().Perm()&0o006 == 0 {
		return ""
	}
	for dir := filepath.Dir(target); ; dir = filepath.Dir(dir) {
		if folder, err := os.Stat(dir); err != nil || folder.Mode().Perm()&0o001 == 0 {
			return "" // who may not enter it does not reach the file
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return fmt.Sprintf("every user of this host can read or change the Consul token in %s (mode %#o): chmod 0600 %[1]s",
		strconv.Quote(target), info.Mode().Perm())
}

// isTokenShaped tells whether a path looks like a token that was given in place of a file, and so must not be shown.
func isTokenShaped(path string) bool {
	return regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`).MatchString(filepath.Base(path))
}
