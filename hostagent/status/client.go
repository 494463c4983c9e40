// SPDX-License-Identifier: MPL-2.0

package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

const (
	schemaVersion = 1
	askTimeout    = 5 * time.Second
	maxDocument   = 32 << 20 // bytes; 4,000 services that are all exposed make about 4 MB
	maxHead       = 16 << 10 // bytes of the answer before it
	maxShown      = 200      // runes of what somebody else answered
)

// NotRunningError tells that no hostagent serves the socket.
type NotRunningError struct {
	Path string
	Err  error // what connecting said
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("hostagent is not running on this host: nobody serves %q; start it (hostagent run), or ask on the host and in the container "+
		"where it runs. One that waits for settings of Consul's KV (kv_prefix) does not answer yet; its log says what it waits for", e.Path)
}

// Unwrap returns the cause.
func (e *NotRunningError) Unwrap() error { return e.Err }

// Ask returns the status of the hostagent that serves the socket at path, within 5 s. A *NotRunningError tells that none
// does, errors.Is(err, fs.ErrPermission) that the caller may not ask. The text in a status is what the other side sent:
// whoever shows it passes it through catalog.Clean.
func Ask(ctx context.Context, path string) (hostagent.Status, error) {
	body, err := Fetch(ctx, path)
	if err != nil {
		return hostagent.Status{}, err
	}
	// The version first: what follows may not be readable in another one.
	if v, err := versions(body); err == nil && v > schemaVersion {
		return hostagent.Status{}, fmt.Errorf("cannot read the status at %q: it has schema version %d and this program knows %d; upgrade this hostagent", path, v, schemaVersion)
	}
	var st hostagent.Status
	if err := json.Unmarshal(body, &st); err != nil {
		return hostagent.Status{}, noHostagent(path, err)
	}
	return st, nil
}

// Fetch returns the status document as the hostagent at path sent it, of whatever schema version. It has the errors of Ask.
func Fetch(ctx context.Context, path string) ([]byte, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	body, err := get(ctx, path)
	if err != nil {
		return nil, askFailure(path, err)
	}
	if _, err := versions(body); err != nil {
		return nil, noHostagent(path, err)
	}
	return body, nil
}

// get makes the one request of a connection and reads a bounded answer. It does so by hand, because http.Client does not
// tell a connection that is refused at once from an answer that is no HTTP.
func get(ctx context.Context, path string) ([]byte, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	body, err := exchange(conn)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return body, err
}

func exchange(conn net.Conn) ([]byte, error) {
	if _, err := io.WriteString(conn, "GET "+statusPath+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return nil, err
	}
	head := &io.LimitedReader{R: conn, N: maxHead}
	response, err := http.ReadResponse(bufio.NewReader(head), nil)
	if head.N <= 0 && err != nil {
		return nil, fmt.Errorf("its header has more than %d bytes", maxHead)
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers with status %d", response.StatusCode)
	}
	head.N = math.MaxInt64 // the body has a bound of its own
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if len(body) > maxDocument {
		return nil, fmt.Errorf("it answers with more than %d bytes", maxDocument)
	}
	return body, err
}

// versions tells the schema version of a document; an error says that it is none.
func versions(body []byte) (int, error) {
	var d struct {
		SchemaVersion int     `json:"schema_version"`
		Version       *string `json:"hostagent_version"`
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return 0, err
	}
	if d.SchemaVersion < 1 || d.Version == nil {
		return 0, errors.New("its answer has no schema_version and hostagent_version")
	}
	return d.SchemaVersion, nil
}

// askFailure names the remedy of what went wrong.
func askFailure(path string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("cannot ask hostagent at %q: %w", path, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED) && isSocket(path):
		return &NotRunningError{Path: path, Err: err}
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EPROTOTYPE):
		return fmt.Errorf("cannot ask hostagent at %q: it is no socket of hostagent", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot ask hostagent: %w; run as root%s", err, groupRemedy(path))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("cannot ask hostagent at %q: no whole answer within %s; see its log, and restart it if it hangs: %w", path, askTimeout, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("cannot ask hostagent at %q: it closed the connection, as it does when too many ask at once; try again: %w", path, err)
	}
	return noHostagent(path, err)
}

// noHostagent is the error for an answer that is no status; err may quote it.
func noHostagent(path string, err error) error {
	return fmt.Errorf("cannot read a status at %q: what answers there is no hostagent, or not one that this program knows (%s)",
		path, catalog.CleanTo(err.Error(), maxShown))
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

// groupRemedy names the group that may ask, where it can be told and is not root's own.
func groupRemedy(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Gid == 0 || info.Mode()&0o020 == 0 {
		return ""
	}
	name := strconv.FormatUint(uint64(st.Gid), 10)
	if group, err := user.LookupGroupId(name); err == nil {
		name = group.Name
	}
	return fmt.Sprintf(" or as a member of group %q", name)
}
