// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// SavedRules is a file that a firewall loader reads at boot and that holds rules of hostagent. Lines are their numbers,
// from 1, ascending. The lines of a table or chain in nftables' syntax are all those of its block.
type SavedRules struct {
	File  string
	Lines []int
	NFT   bool // the file is in nftables' syntax, not in that of iptables-restore
	More  bool // there are more lines than Lines holds
}

// SavedRulePattern matches the lines of iptables-save that name a chain or set of hostagent, in the syntax of both Go and
// "sed -E": its chains, the rules in them, the jumps to them, and rules of anybody that read its sets. Comments, be they
// lines or parts of a rule, are not matched.
const SavedRulePattern = `^ *(:HOSTAGENT-|(\[[0-9:]+\] )?-([A-Z]|.* (-[jg]|--match-set)) (HOSTAGENT|hostagent)-)`

const (
	// maxRulesFile is how much of a file is read: 100,000 rules have about 10 MB.
	maxRulesFile = 16 << 20
	// mostRuleLines is how many lines are told of a file.
	mostRuleLines = 1000
)

// ReadSavedRules reads Facts.SavedRules alone. It never fails: a file that cannot be read is left out.
func ReadSavedRules() []SavedRules {
	var f Facts
	f.readSavedRules("/")
	return f.SavedRules
}

// readSavedRules looks into the files from which Debian's netfilter-persistent, Red Hat's iptables-services and
// nftables.service load. What nftables.conf includes is not looked into.
func (f *Facts) readSavedRules(root string) {
	for _, file := range []struct {
		path string
		nft  bool
	}{
		{"/etc/iptables/rules.v4", false}, {"/etc/iptables/rules.v6", false},
		{"/etc/sysconfig/iptables", false}, {"/etc/sysconfig/ip6tables", false},
		{"/etc/nftables.conf", true},
	} {
		data, err := readRules(filepath.Join(root, file.path))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			f.note("cannot look for saved rules of hostagent in %s: %v", file.path, err)
			continue
		}
		lines := iptablesLines
		if file.nft {
			lines = nftLines
		}
		if saved := (SavedRules{File: file.path, Lines: lines(data), NFT: file.nft}); len(saved.Lines) > 0 {
			if len(saved.Lines) > mostRuleLines {
				saved.Lines, saved.More = saved.Lines[:mostRuleLines:mostRuleLines], true
			}
			f.SavedRules = append(f.SavedRules, saved)
		}
	}
}

// readRules reads a regular file of bounded size. A link is followed, as the loaders do; whatever else stands there must
// not hang whoever opens it.
func readRules(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
			err = wrapped.Err // the path is told by who asks
		}
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(file, maxRulesFile+1))
	if err == nil && len(data) > maxRulesFile {
		err = fmt.Errorf("it has more than %d MB", maxRulesFile>>20)
	}
	return data, err
}

// eachLine calls see with every line and its number.
func eachLine(data []byte, see func(number int, line []byte)) {
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, len(data)+1) // no line is longer than the file
	for number := 1; scanner.Scan(); number++ {
		see(number, scanner.Bytes())
	}
}

func iptablesLines(data []byte) []int {
	pattern := regexp.MustCompile(SavedRulePattern)
	var lines []int
	eachLine(data, func(number int, line []byte) {
		// Most lines are none: what is cheap to see comes first.
		ours := bytes.Contains(line, []byte("HOSTAGENT-")) || bytes.Contains(line, []byte("hostagent-"))
		if ours && len(lines) <= mostRuleLines && pattern.Match(line) {
			lines = append(lines, number)
		}
	})
	return lines
}

// nftLines finds the blocks of our table, and those of our chains in the tables of iptables-nft, with the jumps to them.
func nftLines(data []byte) []int {
	var (
		block = regexp.MustCompile(`^((add|create) +)?(table +inet +hostagent|chain +([a-z0-9]+ +[A-Za-z0-9_]+ +)?HOSTAGENT-[A-Z]+)( |\{|;|$)`)
		jump  = regexp.MustCompile(`(^| )(jump|goto) +HOSTAGENT-[A-Z]+( |;|\}|$)`)
		lines []int
		depth int // of braces inside of a block of ours
	)
	eachLine(data, func(number int, line []byte) {
		code := nftCode(line)
		opens := strings.Count(code, "{") - strings.Count(code, "}")
		switch {
		case depth > 0:
			depth += opens
		case block.MatchString(code):
			depth = max(opens, 0)
		case !jump.MatchString(code):
			return
		}
		if len(lines) <= mostRuleLines {
			lines = append(lines, number)
		}
	})
	return lines
}

// nftCode is a line of nftables' syntax without comments, texts in quotes and the blanks around it.
func nftCode(line []byte) string {
	var code []byte
	quoted := false
	for _, b := range line {
		switch {
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '#':
			return strings.TrimSpace(string(code))
		case b == '\t':
			code = append(code, ' ')
		default:
			code = append(code, b)
		}
	}
	return strings.TrimSpace(string(code))
}

// Spans joins Lines that follow each other.
func (s *SavedRules) Spans() [][2]int {
	var spans [][2]int
	for _, line := range s.Lines {
		if n := len(spans); n > 0 && spans[n-1][1] == line-1 {
			spans[n-1][1] = line
			continue
		}
		spans = append(spans, [2]int{line, line})
	}
	return slices.Clip(spans)
}
